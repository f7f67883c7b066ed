"""A real U-Net trains alike on 1, 4 and 8 devices: dropout, flips and augmentation too.

SGD with learning rate 1: Adam is scale-invariant, and would hide a wrong mean.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import toy
from tolerance import REORDER

from kdiff_jax import domain, interop, methods
from kdiff_jax.train import inputs
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import make_train_step

SPEC = {
    "network": {
        "name": "song_unet",
        "channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.3,
    },
    "precondition": {"name": "edm"},
    "process": {"name": "edm"},
    "image_shape": [8, 8, 3],
    "num_classes": 10,
    "augment_dim": 9,
}
SGD = Optim(optax.scale(-1.0), lambda step, n: 1.0, toy.EMAS)


@pytest.fixture(scope="module")
def train():
    """num_devices -> (the state after a step, metrics)."""
    net, process = interop.build(SPEC)
    method = methods.make(
        "denoise", nets={"student": net}, process=process, times="edm", weight="edm"
    )
    share = domain.whole(10, (process.t_min, process.t_max))
    state = init_state(method, {"student": SGD}, {}, jax.random.key(0))
    # All-zero leaves, as after a network's start, would hide what lies behind them.
    nets = jax.tree.map(
        lambda x: (
            x + 0.02 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        ),
        state.nets,
    )
    state = dataclasses.replace(state, nets=nets)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    batch = {"x0": images, "y": np.arange(8, dtype=np.int32)}

    def run(num_devices):
        step = make_train_step(
            method, {"student": SGD}, method.phases, axis_name="data"
        )
        return one_student.train(
            step,
            jax.devices()[:num_devices],
            state,
            frozen={},
            numbers=toy.numbers(method, 100, share),
            batch=batch,
            key=jax.random.key(1),
            inputs=inputs.make(flip=True, augment_prob=0.5),
        )

    one = run(1)
    return lambda num_devices: (state, one, run(num_devices))


# Half a minute of compiling. By default test_all_methods.py trains on several devices,
# and what an example draws is its own: test_networks.py (dropout), test_augment.py.
@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [4, 8])
def test_a_step_does_not_depend_on_the_number_of_devices(train, num_devices):
    start, (one, metrics_one), (many, metrics_many) = train(num_devices)
    chex.assert_trees_all_close(many.nets, one.nets, **REORDER)
    chex.assert_trees_all_close(metrics_many, metrics_one, **REORDER)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.nets, start.nets)
    assert max(jax.tree.leaves(moved["student"].params)) > 1e-3
