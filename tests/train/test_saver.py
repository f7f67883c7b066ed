"""What is saved is finite."""

import types

import jax
import jax.numpy as jnp
import pytest

from kdiff_jax.errors import NumericsError
from kdiff_jax.stages.hooks import Saver
from kdiff_jax.train import parallel
from kdiff_jax.train.divergence import Watch


class Kept(list):
    """In the place of checkpoints: the steps that were saved."""

    def save(self, step, state, good):
        del state, good
        self.append(step)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_one_number_that_is_not_finite_stops_the_save(bad):
    """Of states of two students, on eight devices, with a count among the leaves."""
    mesh = parallel.make_mesh(jax.devices(), num_students=2)
    good = {"a": jnp.ones((2, 3)), "b": jnp.zeros((2, 4, 4)), "n": jnp.arange(2)}
    spoilt = good | {"b": good["b"].at[1, 2, 3].set(bad)}
    kept = Kept()
    saver = Saver(kept, minutes=1e9, watch=Watch(factor=100.0, lines=3))
    first, second = (
        types.SimpleNamespace(nets=parallel.by_student(nets, mesh))
        for nets in (good, spoilt)
    )
    saver.now(1, first)
    with pytest.raises(NumericsError, match="a parameter is not finite"):
        saver.now(2, second)
    assert kept == [1]
