"""A state in parts is trained as one of which every device has a copy."""

import chex
import jax
import one_student
import optax
import pytest
import toy
from tolerance import REORDER

from kdiff_jax import methods
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.train.layout import Layout
from kdiff_jax.train.step import Optim, init_state, make_train_step

FROZEN = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
ALL_AS_SGD = Optim(optax.trace(0.9), lambda step, n: 1.0, toy.EMAS, clip_norm=0.01)
ADAM = ALL_AS_SGD._replace(tx=optax.scale_by_adam(), lr=lambda step, n: 1e-2)
SMALL = 1  # so that leaves of toy networks are split


def run(name, optimizer, num_devices, num_parts):
    """(state, metrics) of a step; the gradient is clipped, as its norm is far above."""
    method = methods.make(name, nets=toy.NETS, process=cosine())
    optim = {role: optimizer for role in method.nets}
    given = FROZEN | {"fake_score": toy.NETS["teacher"].init(jax.random.key(8))}
    state = init_state(method, optim, given, jax.random.key(0))
    return one_student.train(
        make_train_step(method, optim, method.phases, axis_name="data"),
        jax.devices()[:num_devices],
        state,
        frozen=FROZEN,
        numbers=toy.numbers(method),
        batch=toy.batch(0),
        key=jax.random.key(1),
        layout=Layout(num_parts, SMALL),
    )


@pytest.mark.parametrize(
    ("name", "optimizer", "num_devices"),
    [
        ("denoise", ALL_AS_SGD, 8),
        ("denoise", ADAM, 8),
        ("dmd2", ALL_AS_SGD, 2),
        *(
            pytest.param(name, ALL_AS_SGD, num, marks=pytest.mark.slow)
            for name in methods.names()
            for num in (1, 4, 8)
        ),
    ],
)
def test_a_state_in_parts_is_trained_as_a_whole(name, optimizer, num_devices):
    whole, parts = (run(name, optimizer, num_devices, k) for k in (1, num_devices))
    chex.assert_trees_all_close(parts, whole, **REORDER)
