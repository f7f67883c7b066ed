"""What a training stage leaves, checked before anything runs."""

import logging

from kdiff_jax import build, methods
from kdiff_jax.build import TrainStage
from kdiff_jax.errors import ConfigError
from kdiff_jax.stages import Job
from kdiff_jax.train.step import NetState

log = logging.getLogger(__name__)


def average(result: str) -> str | None:
    """Name of the moving average that a result is made of; None for the parameters."""
    return {"params": None, "best": "ema"}.get(result, result)


def params_of(net: NetState, result: str):
    """Parameters, or the moving average, of a role that a result is made of."""
    name = average(result)
    return net.params if name is None else net.ema[name]


def check(job: Job) -> None:
    """Refuses a result that a stage will not have.

    Raises:
        ConfigError: If the student keeps no moving average, or there is nothing to
            choose the best one by.
    """
    for stage in job.stages:
        if stage.kind == "train":
            _check(job, stage)


def _check(job: Job, stage: TrainStage) -> None:
    result = stage.train.result
    what = f"stages.{stage.name}.train.result={result!r}"
    kept = build.averages(stage, "student")
    if average(result) not in (None, *kept):
        if kept:
            raise ConfigError(
                f"{what}: is no moving average of the student, which has"
                f" {', '.join(kept)}; choose one of them, or params"
            )
        raise ConfigError(
            f"{what}: the student keeps no moving average; set"
            f" stages.{stage.name}.optim.ema_decay or .ema_half_life, or"
            " result='params'"
        )
    if result != "best":
        return
    name = stage.method.name
    if not methods.scores_pairs(name):
        raise ConfigError(
            f"{what}: the loss of the method {name!r} needs more than pairs, so that it"
            " can score none; choose params or ema"
        )
    held_out = {s.name: s.num_held_out for s in job.stages if s.kind == "pairs"}
    source = stage.pairs
    if source not in held_out:
        raise ConfigError(
            f"{what}: is the best on held-out pairs, and the stage has none; name a"
            f" stage of pairs in stages.{stage.name}.pairs, or choose params or ema"
        )
    num, num_devices = held_out[source], job.mesh.shape["data"]
    if num < num_devices:
        raise ConfigError(
            f"stages.{source}.num_held_out={num}: {what} scores one pair at least on"
            f" each of {num_devices} devices; make {num_devices} or more, or choose"
            " params or ema"
        )
    size = min(stage.train.batch_size, num) // num_devices * num_devices
    if size and num % size:
        log.warning(
            "stages.%s.num_held_out=%d: %d of them fill no batch of %d, and never"
            " count; take a multiple of it",
            *(source, num, num % size, size),
        )
