"""What a recipe delivers is what it has trained: an average has forgotten its start."""

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

BLOCK = 20_000  # steps; one shape for all, as each is compiled anew
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
    decay = emas[results.average(train)]
    (phase,) = (p for p in method.phases if "student" in p.trains)
    steps = np.arange(phase.offset, train.num_steps, phase.every)
    updates = updates_before(method.phases, "student")
    log = 0.0
    for first in range(0, len(steps), BLOCK):
        own = steps[first : first + BLOCK]
        padded = np.pad(own, (0, BLOCK - len(own)), mode="edge")
        kept = np.broadcast_to(decay(updates(padded)), BLOCK)[: len(own)]
        log += np.log(np.maximum(kept.astype(np.float64), 1e-300)).sum()
    return float(np.exp(log))


def averaged(name):
    """(size, the whole config, a stage that leaves an average) of a recipe."""
    for size in SIZES:
        try:
            found = recipes.load(name, size) if size != "full" else recipes.load(name)
        except ValueError:
            continue  # a size that it does not have
        config = build.plain(found)
        for stage in build.expand(config):
            if stage.kind == "train" and stage.train.result != "params":
                yield size, config, stage


@pytest.mark.parametrize("name", recipes.names())
def test_an_average_has_forgotten_where_it_began(name):
    for size, config, stage in averaged(name):
        assert weight_of_the_start(config, stage) < 1e-3, f"{size}, {stage.name}"
