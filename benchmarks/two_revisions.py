"""What a train step costs in one checkout of this project and in another.

    python benchmarks/two_revisions.py OLD . --config=configs/digits_dmd2.py \
        --config.init.teacher=$PWD/runs/digits_student/teacher

Both train the first stage that is not done, on one core, a step of one after a step of
the other, so that whatever slows the machine slows both. All other options are those of
the training command. One JSON line: the median of a step in milliseconds, of the clock
and of the processor; the median of the ratios of neighbours, and its standard error
from pairs drawn again.

The step is watched from outside, where the loop tells the watchdog that it lives: this
needs nothing of the checkouts that they have not had since July.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

WARM = 6  # steps of each that are not counted: compiled, and all sets of due phases


def train_in_turns(*flags):
    """The training command, which waits for a line of input before every step."""
    import jax

    from kdiff_jax import main as command
    from kdiff_jax.train import watchdog

    out, beat = os.fdopen(os.dup(1), "w"), watchdog.beat
    os.dup2(2, 1)
    began = [time.perf_counter(), time.process_time()]

    def turn(*args, **kwargs):
        beat(*args, **kwargs)
        caller = sys._getframe(1)
        if caller.f_globals["__name__"] != "kdiff_jax.train.loop":
            return
        jax.block_until_ready(caller.f_locals["state"])
        now = [time.perf_counter(), time.process_time()]
        print(*(b - a for a, b in zip(began, now, strict=True)), file=out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        began[:] = [time.perf_counter(), time.process_time()]

    watchdog.beat = turn
    sys.argv = ["kdiff_jax.main", *flags]
    command.run()


def begin(checkout, folder, config, core, more):
    """A process that trains in turns with this checkout's code."""
    quiet = ("log_every", "sample_every", "save_every")
    flags = [
        *(f"--config={config}", f"--workdir={folder}", "--config.cpu_devices=1"),
        *(f"--config.train.{name}=1000000" for name in quiet),
    ]
    env = dict(os.environ, PYTHONPATH=str(checkout), JAX_PLATFORMS="cpu")
    return subprocess.Popen(
        [sys.executable, __file__, "--turns", *flags, *more],
        cwd=checkout,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=open(folder.with_suffix(".log"), "w"),
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs=2, type=pathlib.Path)
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", type=int, default=100, help="counted, of each")
    parser.add_argument("--core", type=int, default=0)
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for checkout, name in zip(options.checkouts, ("before", "after"), strict=True):
            folder = pathlib.Path(scratch) / name
            about = (checkout.resolve(), folder, options.config, options.core, more)
            runs.append(begin(*about))
        try:
            found = [[], []]
            for run in runs:
                answer(run, scratch)  # compiled
            for i in range(WARM + options.steps):
                for which in (0, 1) if i % 2 else (1, 0):
                    runs[which].stdin.write("\n")
                    runs[which].stdin.flush()
                    found[which].append(answer(runs[which], scratch))
        finally:
            for run in runs:
                run.kill()
    print(json.dumps(summary(options.config, [times[WARM:] for times in found])))


def answer(run, scratch):
    """(seconds of the clock, of the processor) of the step that was asked for."""
    line = run.stdout.readline()
    if not line:
        logs = "\n".join(
            p.read_text()[-500:] for p in pathlib.Path(scratch).glob("*.log")
        )
        raise SystemExit(f"a run ended too early:\n{logs}")
    return tuple(map(float, line.split()))


def summary(config, found):
    """The line that is printed, of [[(clock, processor) of each step], the other's]."""
    import numpy as np

    before, after = np.array(found)
    ratios = after / before
    drawn = np.random.default_rng(0).integers(len(ratios), size=(1000, len(ratios)))
    errors = np.median(ratios[drawn], axis=1).std(axis=0)
    row = {"config": config, "steps": len(ratios)}
    for name, times in (("before", before), ("after", after)):
        row[name] = np.round(1e3 * np.median(times, axis=0), 2).tolist()
    row["ratio"] = np.round(np.median(ratios, axis=0), 4).tolist()
    row["ratio of sums"] = np.round(after.sum(axis=0) / before.sum(axis=0), 4).tolist()
    return row | {"standard error": np.round(errors, 4).tolist()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--turns"]:
        train_in_turns(*sys.argv[2:])
    else:
        main()
