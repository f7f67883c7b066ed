"""Memory that converting a large EDM pickle takes: the ADM of ImageNet-64, 296 M.

    python benchmarks/convert_memory.py --folder=adm

Writes a pickle as EDM does (1.18 GB of random weights), converts it in a process of its
own, and prints peak resident memory, mapped pages of the file included, against the
file's size and against the same command on a network a thousand times smaller.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FULL = dict(channels=192, channel_mult=(1, 2, 3, 4), num_blocks=3)
TINY = dict(channels=8, channel_mult=(1, 2, 3, 4), num_blocks=1)


def write(path: pathlib.Path, fields: dict) -> None:
    """A pickle of an ADM network with these fields, at 64x64 and 1000 classes."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "interop")]
    import edm_files
    import jax
    import numpy as np

    from kdiff_jax import interop
    from kdiff_jax.formats import lazy
    from kdiff_jax.interop import edm_export
    from kdiff_jax.interop.trees import flatten

    spec = {
        "network": {"name": "adm_unet", **fields},
        "precondition": {"name": "edm"},
        "process": {"name": "edm"},
        "image_shape": [64, 64, 3],
        "num_classes": 1000,
    }
    net, _ = interop.build(spec)
    shapes = flatten(jax.eval_shape(net.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    leaves = {
        k: lazy.of(rng.standard_normal(x.shape, np.float32)) for k, x in shapes.items()
    }
    found = edm_export.state_dict(interop.Spec.of(spec), leaves)
    arrays = {k: v.read() for k, v in found.items()}
    own = dict(
        model_channels=fields["channels"],
        channel_mult=list(fields["channel_mult"]),
        num_blocks=fields["num_blocks"],
        attn_resolutions=[32, 16, 8],
    )
    shared = dict(img_resolution=64, label_dim=1000)
    net = edm_files.objects(
        arrays,
        wrapper="EDMPrecond",
        network="DhariwalUNet",
        said=dict(img_channels=3, model_type="DhariwalUNet", **shared, **own),
        own=dict(in_channels=3, out_channels=3, **shared, **own),
    )
    path.write_bytes(edm_files.pickle({"ema": net}))


def convert(source: pathlib.Path, output: pathlib.Path) -> tuple[int, float]:
    """(peak resident bytes of the process, seconds)."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdiff_jax.convert"]
        + [f"--input={source}", f"--output={output}"],
        cwd=ROOT,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"convert ended with {status}")
    return usage.ru_maxrss * 1024, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--write", choices=["full", "tiny"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if options.write:
        fields = FULL if options.write == "full" else TINY
        write(folder / f"{options.write}.pkl", fields)
        return
    peaks = {}
    for size in ("tiny", "full"):
        again = [sys.executable, __file__, f"--folder={folder}", f"--write={size}"]
        subprocess.run(again, check=True)  # its memory must not count
        peak, seconds = convert(folder / f"{size}.pkl", folder / f"{size}_model")
        peaks[size] = peak
        weight = (folder / f"{size}.pkl").stat().st_size
        print(
            f"{size}: file {weight / 1e9:.3f} GB, peak {peak / 1e9:.3f} GB"
            f" ({peak / weight:.2f} x), {seconds:.1f} s"
        )
    more = peaks["full"] - peaks["tiny"]
    print(f"beyond the tiny one: {more / 1e9:.3f} GB ({more / weight:.2f} x the file)")


if __name__ == "__main__":
    main()
