"""How near K students come to their teacher in the plane, for K = 1, 2, 4 and 8.

    python benchmarks/toy2d_msd.py --workdir=runs/toy2d --plot=toy2d.png

Runs configs/toy2d_msd.py for each K and seed, from one teacher a seed. The distance is
that of the paper's toy, between histograms: the mean over the classes of
sum |p_student - p_teacher| over 24x24 bins, from 0 to 2; beside it that of two samples
of the teacher, which nothing can pass.
"""

import json
import pathlib
import shutil
import sys

import jax
import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from configs import toy2d_msd
from kdiff_jax import interop, recipe
from kdiff_jax.train import generate, parallel

WORKDIR = flags.DEFINE_string("workdir", "runs/toy2d", "A folder for each run in it.")
PLOT = flags.DEFINE_string("plot", None, "Also draw the figure: FILE.png.")
NUM = flags.DEFINE_integer("num_points", 5000, "Points of each class.")
SEEDS = flags.DEFINE_integer("seeds", 3, "How many.")
CLASSES, BINS, NUMBERS = 8, 24, (1, 2, 4, 8)


def main(_) -> None:
    root, found = pathlib.Path(WORKDIR.value), {}
    for seed in range(SEEDS.value):
        teacher = None
        for num in NUMBERS:
            workdir = root / f"seed_{seed}_students_{num}"
            train(workdir, teacher, num, seed)
            teacher = workdir / "teacher"
            target = points(teacher, seed=1)
            row = found.setdefault(num, [])
            row.append(distance(points(workdir / "student", seed=2), target))
            print(f"seed {seed}, {num} students: {row[-1]:.4f}", flush=True)
        again = distance(points(teacher, seed=2), target)
        found.setdefault("teacher", []).append(again)
    table = {
        str(name): dict(mean=np.mean(row), deviation=np.std(row, ddof=1), each=row)
        for name, row in found.items()
    }
    print(json.dumps(table, indent=1))
    if PLOT.value:
        draw(table, PLOT.value)


def train(workdir: pathlib.Path, teacher, num: int, seed: int) -> None:
    """One recipe; of a seed's later runs the teacher is the first one's."""
    config = toy2d_msd.get_config().unlock()
    config.seed, config.partition.num_groups = seed, num
    if teacher is not None and not (workdir / "teacher").exists():
        shutil.copytree(teacher, workdir / "teacher")
    recipe.run(config, workdir, devices=jax.devices()[:1])


def points(folder: pathlib.Path, *, seed: int) -> np.ndarray:
    """f32[CLASSES, NUM, 2], samples of each class."""
    model = interop.load(folder)
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, model.sampler(), mesh=mesh, leave=lambda x0: x0)
    labels = np.repeat(np.arange(CLASSES), NUM.value).astype(np.int32)
    found = np.empty((len(labels), 2), np.float32)
    for made in make.batches(model.params, seed=seed, labels=labels, batch_size=5000):
        found[made.places] = made.x0[:, 0, 0]
    return found.reshape(CLASSES, NUM.value, 2)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over the classes of the L1 distance of two histograms."""
    edges = np.linspace(-1, 1, BINS + 1)

    def histogram(x):
        inside = np.clip(x, -1, 1 - 1e-6)
        return np.histogram2d(*inside.T, bins=(edges, edges))[0] / len(x)

    pairs = zip(a, b, strict=True)
    return float(np.mean([np.abs(histogram(x) - histogram(y)).sum() for x, y in pairs]))


def draw(table, path: str) -> None:
    import matplotlib.pyplot as plt  # no dependency of the package

    means = [table[str(k)]["mean"] for k in NUMBERS]
    deviations = [table[str(k)]["deviation"] for k in NUMBERS]
    plt.figure(figsize=(5, 3.2))
    plt.errorbar(NUMBERS, means, deviations, marker="o", capsize=4, label="students")
    plt.axhline(table["teacher"]["mean"], ls="--", c="grey", label="teacher again")
    plt.xscale("log", base=2)
    plt.xticks(NUMBERS, [str(k) for k in NUMBERS])
    plt.xlabel("students")
    plt.ylabel("distance to the teacher")
    plt.legend()
    plt.tight_layout()
    plt.savefig(path, dpi=110)


if __name__ == "__main__":
    app.run(main)
