"""Every figure against how far real images are spoiled: curves and a table.

    python benchmarks/metric_curves.py cifar10.npz resnet56.npz RESULT.json PICTURE.png

Spoiled are CIFAR-10 images (uint8 NHWC, `x_train`, `y_train`), compared with as many
others, on the features and logits of a CIFAR-10 ResNet-56; `sfd` is on averages of 4x4
pixels, for only FID's network has spatial features, and its weights are a file that
the user brings. A figure counts as monotone if no step goes the wrong way by more than
two deviations of it among `REPEATS` other draws of unspoiled images.
"""

import datetime
import json
import pathlib
import sys

import matplotlib
import numpy as np
from PIL import Image, ImageFilter

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from kdiff_jax import metrics, start
from kdiff_jax.metrics import table
from kdiff_jax.metrics.seen import Seen, of_rows

NUM, REPEATS = 1000, 4
SUBSET = 500  # of `kd`, whose 20 subsets are taken here for the sake of time
NAMES = (
    "fd",
    "fd_inf",
    "sfd",
    "kd_full",
    "inception_score",
    "prdc",
    "memorisation",
)
# Of a figure, whether it rises where images are spoiled.
RISES = {
    "fd": True,
    "fd_inf": True,
    "sfd": True,
    "kd": True,
    "kd_full": True,
    "nearest": True,
    "inception_score": False,
    "precision": False,
    "recall": False,
    "density": False,
    "coverage": False,
    "memorised": False,
}
LEVELS = {
    "blur, pixels": [0, 0.5, 1, 1.5, 2],
    "noise, of 255": [0, 8, 16, 32, 64],
    "missing classes": [0, 3, 6, 9],
    "images": [1000, 500, 250, 125],
}


def blurred(images, radius, draw):
    del draw
    spread = [
        Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius)) for x in images
    ]
    return np.stack([np.asarray(x) for x in spread])


def noisy(images, deviation, draw):
    noise = draw.normal(scale=deviation, size=images.shape) if deviation else 0
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


class Look:
    """Images to what metrics read."""

    def __init__(self, weights):
        self.features = metrics.make("resnet56", weights=weights)

    def __call__(self, images) -> Seen:
        found = self.features.named(images, ["pooled", "logits"])
        rows = found["pooled"]
        num, side = len(images), images.shape[1] // 4
        small = images.reshape(num, side, 4, side, 4, 3).mean(axis=(2, 4))
        places = small.reshape(num, -1) / 127.5 - 1
        return Seen(of_rows(rows), rows, found["logits"], of_rows(places))


def measured(found, reference):
    size = min(SUBSET, len(found.rows))
    about = dict(num_subsets=20, subset_size=size)
    spread = metrics.kernel_distance_subsets(found.rows, reference.rows, **about)
    figures = {"kd": spread.mean}
    for module in table.modules(NAMES):
        figures |= module.measure(found, reference)
    return {name: float(v) for name, v in figures.items() if name in RISES}


def spoiled(kind, level, pool, draw):
    """Images of one level: `NUM` of the pool, or so many, or of fewer classes."""
    images, labels = pool
    if kind == "missing classes":
        images = images[labels >= level]
        return images[:NUM]
    if kind == "images":
        return images[:level]
    return {"blur, pixels": blurred, "noise, of 255": noisy}[kind](
        images[:NUM], level, draw
    )


def main(path, weights, result, picture):
    with np.load(path) as file:
        images, labels = file["x_train"], file["y_train"]
    order = np.random.default_rng(0).permutation(len(images))
    reference, rest = order[:NUM], order[NUM:]
    look = Look(weights)
    theirs = look(images[reference])
    pool = images[rest], labels[rest]
    draw = np.random.default_rng(1)
    clean = [
        measured(look(images[rest[i * NUM :][:NUM]]), theirs)
        for i in range(1, REPEATS + 1)
    ]
    spread = {name: float(np.std([c[name] for c in clean])) for name in RISES}
    curves = {}
    for kind, levels in LEVELS.items():
        rows = [
            measured(look(spoiled(kind, level, pool, draw)), theirs) for level in levels
        ]
        curves[kind] = {
            name: [row.get(name) for row in rows] for name in rows[0] if name in RISES
        }
        print(kind, json.dumps(curves[kind]), flush=True)
    wrong = {}
    for kind, found in curves.items():
        for name, values in found.items():
            steps = np.diff(np.array(values, float)) * (1 if RISES[name] else -1)
            if (steps < -2 * spread[name]).any():
                wrong.setdefault(kind, []).append(name)
    report = {
        "date": str(datetime.date.today()),
        "command": "python benchmarks/metric_curves.py",
        "num_images": NUM,
        "features": look.features.provenance,
        "levels": LEVELS,
        "deviation_of_unspoiled": spread,
        "curves": curves,
        "not_monotone": wrong,
    }
    pathlib.Path(result).write_text(json.dumps(report, indent=1) + "\n")
    draw_curves(curves, picture)
    print("not monotone:", wrong)


def draw_curves(curves, picture):
    shape = dict(figsize=(11, 12), layout="constrained")
    figure, axes = plt.subplots(len(RISES) // 2, len(LEVELS), sharey="row", **shape)
    pairs = list(RISES)
    for column, (kind, found) in enumerate(curves.items()):
        for row in range(len(pairs) // 2):
            axis = axes[row, column]
            for name in pairs[2 * row : 2 * row + 2]:
                top = max(abs(v) for c in curves.values() for v in c[name])
                shown = np.array(found[name]) / top
                axis.plot(range(len(shown)), shown, marker="o", ms=3, label=name)
            axis.set_xticks(range(len(LEVELS[kind])), LEVELS[kind], fontsize=7)
            axis.tick_params(axis="y", labelsize=7)
            if row == len(pairs) // 2 - 1:
                axis.set_xlabel(kind)
            if column == 0:
                axis.legend(fontsize=7)
    figure.suptitle("Figures, each as a part of its largest value")
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    start.allocator()
    main(*sys.argv[1:])
