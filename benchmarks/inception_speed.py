"""FID's Inception-v3: features a second of this project and of torch-fidelity.

    python benchmarks/inception_speed.py theirs/bin/python FOLDER RESULT.json

FOLDER and the environment `theirs` are those of fid_against_torch.py, which made the
weights and the images. Both run on one core and in turns, so that what slows the
machine slows both; the time is that of the processor, in user and system mode. Of
torch there are two: as it comes, and with glibc told to keep freed memory, as commands
of this project do for themselves (`kdiff_jax.start.allocator`). Of the 32 images of a
turn, torch looks at all in one call, this project at as many as it would (4).
"""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

BATCH, TURNS = 32, 5
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "67108864",
}


def child(side, folder):
    """Features of a batch for every line of input; prints the seconds of each."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if side == "ours":
        from kdiff_jax import start

        start.allocator()
    import fid_against_torch
    import numpy as np

    fid_against_torch.BATCH = BATCH
    folder = pathlib.Path(folder)
    with np.load(folder / "images.npz") as file:
        images = file["images"][:BATCH]
    make = fid_against_torch._jax if side == "ours" else fid_against_torch._torch
    run = make(folder, "torch-fidelity")
    run(images)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        run(images)
        print(time.process_time() - began, flush=True)


def main(theirs, folder, result):
    own = dict(os.environ, JAX_PLATFORMS="cpu")
    sides = {
        "ours": (sys.executable, own),
        "torch": (theirs, own),
        "torch, freed memory kept": (theirs, own | KEPT),
    }
    children = {
        name: subprocess.Popen(
            [python, __file__, "child", name, folder],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name, (python, environment) in sides.items()
    }
    found = {name: [] for name in sides}
    for one in children.values():
        assert one.stdout.readline() == "ready\n"
    for _ in range(TURNS):
        for name, one in children.items():
            one.stdin.write("go\n")
            one.stdin.flush()
            found[name].append(BATCH / float(one.stdout.readline()))
    for one in children.values():
        one.communicate()
    report = {
        "date": str(datetime.date.today()),
        "command": "python benchmarks/inception_speed.py",
        "batch": BATCH,
        "load_average": os.getloadavg()[0],
        "features_per_cpu_second": {k: sorted(v) for k, v in found.items()},
    }
    for name in list(sides)[1:]:
        pairs = zip(found["ours"], found[name], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        report[f"ours / {name}"] = ratio
    print(json.dumps(report, indent=1))
    pathlib.Path(result).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
