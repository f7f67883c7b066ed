"""What a recipe delivers is what it has trained: an average has forgotten its start."""

import jax.numpy as jnp
import numpy as np
import pytest
import recipes
import toy

from kdiff_jax import build, methods
from kdiff_jax.build.objects import _optim
from kdiff_jax.diffusion import process as processes
from kdiff_jax.method import updates_before
from kdiff_jax.stages import results
from kdiff_jax.train import optim

SIZES = ("full", "cpu", "cpu_small", "cpu_gddi", "gddi", "small", "smaller", "common")


def weight_of_the_start(config, stage) -> float:
    """The share of the first parameters in the moving average at the last step."""
    keywords = dict(stage.method.keywords)
    keywords |= {"distance": "l2"} if keywords.get("distance") == "lpips" else {}
    keywords |= {"virtual_local_batch": 1} if stage.method.name == "gdd" else {}
    process = processes.make(**config["model"]["process"])
    method = methods.make(stage.method.name, nets=toy.NETS, process=process, **keywords)
    train = stage.train
    emas = optim.make(**_optim(stage, "student"), batch_size=train.batch_size).emas
    decay = emas[results.average(train.result)]
    (phase,) = (p for p in method.phases if "student" in p.trains)
    steps = jnp.arange(phase.offset, train.num_steps, phase.every)
    updates = updates_before(method.phases, "student")(steps)
    kept = np.broadcast_to(np.asarray(decay(updates), np.float64), steps.shape)
    return float(np.exp(np.log(np.maximum(kept, 1e-300)).sum()))


def averaged():
    for name in recipes.names():
        for size in SIZES:
            try:
                found = (
                    recipes.load(name, size) if size != "full" else recipes.load(name)
                )
            except ValueError:
                continue  # a size that it does not have
            config = build.plain(found)
            for stage in build.expand(config):
                if stage.kind != "train":
                    continue
                if stage.train.result != "params":
                    yield pytest.param(config, stage, id=f"{name}-{size}-{stage.name}")


@pytest.mark.parametrize(("config", "stage"), list(averaged()))
def test_an_average_has_forgotten_where_it_began(config, stage):
    assert weight_of_the_start(config, stage) < 1e-3
