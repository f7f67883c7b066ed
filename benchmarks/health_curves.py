"""Draws the log of a stage as small curves, for docs/healthy.md.

    python benchmarks/health_curves.py docs/pictures gdd=runs/digits_gdd/student ...

NAME=STAGE becomes health_NAME.png: a panel for each metric of the stage's
metrics.jsonl, the mean of its students where there are several.
"""

import pathlib
import sys

import matplotlib

from kdiff_jax.report import metrics_log

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

NO_CURVES = ("step", "time", "images", "images_per_second", "train_seconds", "digest")
COLUMNS, WIDTH, HEIGHT, DPI = 4, 1.9, 1.35, 72


def curves(path: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value), without those of single students."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in metrics_log.read(path):
        for name, value in line.items():
            single = name.rsplit("/", 1)[-1].isdecimal()
            if name not in NO_CURVES and not single and isinstance(value, float):
                found.setdefault(name, []).append((line["step"], value))
    return found


def draw(found: dict[str, list[tuple[int, float]]], path: pathlib.Path) -> None:
    """A grid of panels of the same steps, each on its own scale."""
    num_rows = -(-len(found) // COLUMNS)
    size = (COLUMNS * WIDTH, num_rows * HEIGHT)
    figure, axes = plt.subplots(num_rows, COLUMNS, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (name, points) in zip(axes.flat, sorted(found.items()), strict=False):
        axis.set_visible(True)
        axis.plot(*zip(*points, strict=True), linewidth=1.2, color="#3f51b5")
        axis.set_title(name, fontsize=7)
        axis.tick_params(labelsize=6)
        axis.grid(alpha=0.3)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def main() -> None:
    folder, *stages = sys.argv[1:]
    for text in stages:
        name, _, stage = text.partition("=")
        found = curves(pathlib.Path(stage) / "metrics.jsonl")
        draw(found, pathlib.Path(folder) / f"health_{name}.png")


if __name__ == "__main__":
    main()
