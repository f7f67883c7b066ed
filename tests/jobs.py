"""Jobs and stages as values, without a config, for what reads little of them."""

import points
from flax.core import FrozenDict

from kdiff_jax.build import EvaluateStage, Init, Recipe, TrainStage
from kdiff_jax.build.sections import Evaluate, Train
from kdiff_jax.interop import Spec
from kdiff_jax.named import Named
from kdiff_jax.stages import Job

NONE = FrozenDict()
SPEC = Spec.of(points.sections()["model"])


def training(name="student", *, init=NONE, train=(), **fields):
    """A stage that trains; `train` are fields of that section."""
    lengths = {"num_steps": 9, "batch_size": 4} | dict(train)
    empty = dict.fromkeys(("section", "optim", "roles", "model", "sampler"), NONE)
    plain = dict(pairs="", settings=NONE, partition=False, filter_data=None)
    plain |= dict(precision="float32", channels="", method=Named("denoise", NONE))
    own = {"train": Train(**lengths), "init": Init.of(init), **fields}
    return TrainStage(name=name, **{**empty, **plain, **own})


def evaluating():
    """The stage "evaluate", of no models."""
    fields = dict(models=(), options=Evaluate(), place="evaluate", hang_minutes=0.0)
    about = dict(name="evaluate", init=Init(), section=NONE, precision="float32")
    return EvaluateStage(**about, **fields)


def job(stages, workdir, mesh, *, spec=SPEC, **fields):
    """A job of these stages; `fields` are those of `Recipe`."""
    sections = tuple(stage.name for stage in stages)
    given = {"spec": spec, "sections": sections, **fields}
    recipe = Recipe("test", tuple(stages), Named("digits", NONE), NONE, **given)
    return Job(recipe, workdir, mesh)
