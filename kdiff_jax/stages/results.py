"""What a training stage leaves, checked before anything runs."""

import logging
from typing import Any

import jax

from kdiff_jax import build, methods
from kdiff_jax.build import TrainStage
from kdiff_jax.build.sections import Train
from kdiff_jax.encoders import texts
from kdiff_jax.errors import ConfigError
from kdiff_jax.metrics import figure_name, table
from kdiff_jax.stages import Job, compared
from kdiff_jax.train.state import NetState, TrainState

log = logging.getLogger(__name__)


HELD_OUT = "held_out_loss"  # of the options best_by


def average(train: Train) -> str | None:
    """Name of the moving average that a result is made of; None for the parameters."""
    name = train.result
    if name == "best":
        name = "ema" if train.best_by == HELD_OUT else train.figure_average or "ema"
    return None if name == "params" else name


def average_of_figures(train: Train) -> str | None:
    """Name of the moving average that quick figures are of; None for the parameters."""
    name = train.figure_average
    return None if name == "params" else name or average(train)


def figure_of(train: Train, features: str) -> str:
    """The figure that the best goes by, as it is reported: "fid" for "fd" or "fid"."""
    ways = table.better(train.figure_metrics, features)
    return (
        train.best_by if train.best_by in ways else figure_name(features, train.best_by)
    )


def params_of(net: NetState, average: str | None):
    """Parameters, or the moving average of this name, of a role."""
    return net.params if average is None else net.ema[average]


def encoder_of(state: TrainState, average: str | None) -> dict[str, Any]:
    """The text encoder of a state, by its role; {} where the stage trains none.

    Without the axis of students, of whom there is one.
    """
    if texts.ROLE not in state.nets:
        return {}
    params = params_of(state.nets[texts.ROLE], average)
    return {texts.ROLE: _first(params)}


@jax.jit
def _first(params):
    return jax.tree.map(lambda x: x[0], params)


def option(job: Job, stage: TrainStage, key: str) -> str:
    """Option of the command line for a keyword of the stage's section `train`."""
    own = key in stage.own_train
    return f"{job.section(stage.name) if own else '--config'}.train.{key}"


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
    train = stage.train
    what = f"stages.{stage.name}.train.result={train.result!r}"
    _check_average(stage, what, average(train))
    if train.figure_every:
        _check_figures(job, stage)
    if train.result != "best":
        return
    if train.best_by == HELD_OUT:
        _check_held_out(job, stage, what)
    else:
        _check_by_figure(job, stage, what)


def _check_average(stage: TrainStage, what: str, name: str | None) -> None:
    kept = build.averages(stage, "student")
    if name in (None, *kept):
        return
    if kept:
        raise ConfigError(
            f"{what}: is no moving average of the student of stage {stage.name!r},"
            f" which has {', '.join(kept)}; choose one of them, or params"
        )
    raise ConfigError(
        f"{what}: the student keeps no moving average; set"
        f" stages.{stage.name}.optim.ema_decay or .ema_half_life, or"
        f" {what.rpartition('.')[2].partition('=')[0]}='params'"
    )


def _check_figures(job: Job, stage: TrainStage) -> None:
    """Refuses quick figures of nothing, of too few images or of no average."""
    train = stage.train
    figures, images, name = (
        f"{option(job, stage, key)}={getattr(train, key)!r}"
        for key in ("figure_every", "figure_images", "figure_average")
    )
    features = compared.options_of(job).features
    if not features:
        raise ConfigError(
            f"{figures}: --config.evaluate.features='' names nothing to measure on;"
            " name features, such as pixels, or set figure_every=0"
        )
    if train.figure_images < 2:
        raise ConfigError(f"{images}: a figure needs 2 images or more")
    try:
        table.better(train.figure_metrics, features)
    except ConfigError as error:
        raise ConfigError(f"{option(job, stage, 'figure_metrics')}: {error}") from error
    _check_average(stage, name, average_of_figures(train))


def _check_by_figure(job: Job, stage: TrainStage, what: str) -> None:
    train = stage.train
    by = f"{option(job, stage, 'best_by')}={train.best_by!r}"
    if not train.figure_every:
        raise ConfigError(
            f"{by}: there are no figures to go by; set"
            f" {option(job, stage, 'figure_every')}=N, the steps between two, or"
            f" best_by={HELD_OUT!r}"
        )
    features = compared.options_of(job).features
    ways = table.better(train.figure_metrics, features)
    if figure_of(train, features) not in ways:
        known = ", ".join([*ways, HELD_OUT])
        raise ConfigError(
            f"{by}: is no figure of figure_metrics={','.join(train.figure_metrics)}"
            f" that tells a better model; choose one of {known}"
        )
    if job.only is not None and job.split(stage.name):
        raise ConfigError(
            f"{what}: is the best step of all students together, and partition.only="
            f"{job.only} trains one; leave partition.only out, or choose params or ema"
        )


def _check_held_out(job: Job, stage: TrainStage, what: str) -> None:
    other = "choose params or ema, or best_by='fd' with figure_every=N"
    if stage.partition:
        raise ConfigError(
            f"{what}: the loss on held-out pairs is that of one student; {other}"
        )
    name = stage.method.name
    if not methods.scores_pairs(name):
        raise ConfigError(
            f"{what}: the loss of the method {name!r} needs more than pairs, so that it"
            f" can score none; {other}"
        )
    held_out = {s.name: s.num_held_out for s in job.stages if s.kind == "pairs"}
    source = stage.pairs
    if source not in held_out:
        raise ConfigError(
            f"{what}: is the best on held-out pairs, and the stage has none; name a"
            f" stage of pairs in stages.{stage.name}.pairs, or {other}"
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
