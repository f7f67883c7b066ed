"""Models of the moving averages that a stage's checkpoints hold, or have never held."""

import pathlib

import jax
import numpy as np

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import checkpoint, training
from kdiff_jax.train import posthoc

POSTHOC = "posthoc:"


def load(path: pathlib.Path, *, average: str) -> interop.Model:
    """The model of a stage folder, or of one of its steps, with these weights.

    Args:
        path: The folder.
        average: "params", the name of a moving average, or "posthoc:SIGMA": the power
            average of relative width SIGMA at the newest of the steps, built from the
            power averages that all of them hold.

    Raises:
        CheckpointError: If there are no checkpoints, or none holds the average.
        ConfigError: If SIGMA is no width of an average.
    """
    found = training.find(path)
    if found is None:
        raise CheckpointError(
            f"average={average}: {path} has no checkpoints of a stage; give a stage"
            " folder of a workdir, or leave it out"
        )
    stage, steps = found
    if not average.startswith(POSTHOC):
        return checkpoint.of_stage(stage, steps, average)
    return _posthoc(stage, steps, average)


def _posthoc(stage, steps, average: str) -> interop.Model:
    width = _width(average)
    widths = training.description(stage).powers
    if not widths:
        raise CheckpointError(
            f"average={average}: {stage / training.STAGE} names no power averages;"
            " train with optim.ema_power, or optim.averages of a power"
        )
    # Before the first update an average is the start, which no weights describe.
    parts = [(step, name) for step in steps if step > 0 for name in widths]
    if len(parts) < 2:
        raise CheckpointError(
            f"average={average}: {len(parts)} snapshots of power averages are too few;"
            " keep more checkpoints (train.keep), or two averages (optim.averages)"
        )
    times = [step for step, _ in parts]
    kinds = [widths[name] for _, name in parts]
    weights = posthoc.coefficients(times, kinds, max(times), width)
    spec, total = None, None
    for (step, name), weight in zip(parts, weights, strict=True):
        spec, *trees = training.load(stage, [step], name)
        part = jax.tree.map(lambda x, w=weight: w * np.asarray(x, np.float64), trees)
        total = part if total is None else jax.tree.map(np.add, total, part)
    assert spec is not None and total is not None
    spec = spec.replace(average=average)
    return checkpoint.of_params(stage, spec, *jax.tree.map(np.float32, total))


def _width(average: str) -> float:
    """The relative width that a text names."""
    try:
        width = float(average.removeprefix(POSTHOC))
        posthoc.gamma(width)
    except ValueError as error:
        raise ConfigError(
            f"average={average}: a relative width above 0 and below 0.288, as"
            " posthoc:0.1"
        ) from error
    return width
