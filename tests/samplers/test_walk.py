"""A denoiser whose ranges of time have owners: the same bits, each weight once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import partition, samplers
from kdiff_jax.diffusion import process
from kdiff_jax.samplers import Ranges

PROCESSES = {name: process.make(name) for name in process.names()}
Z = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
Y = jnp.arange(3)
KEYS = jax.random.split(jax.random.key(1), 3)
W = jax.random.normal(jax.random.key(2), (2, 2)) / 2


def network(w, x_t, t, y):
    """Something that depends on all of its arguments."""
    move = jnp.sin(t)[:, None, None, None] + y[:, None, None, None]
    return jnp.tanh(x_t @ w + move) @ w


def one(w):
    return lambda x_t, t, y: network(w, x_t, t, y)


def split(family, num):
    return partition.make(process=PROCESSES[family], num_classes=0, num_ranges=num)


@pytest.mark.parametrize("family", PROCESSES)
@pytest.mark.parametrize("name", samplers.names())
def test_identical_owners_are_one_denoiser_bit_for_bit(name, family):
    """A single row for one step, and runs of one row and of several."""
    for num_steps, num_ranges in ((1, 2), (5, 3)):
        sampler = samplers.make(name, process=PROCESSES[family], num_steps=num_steps)
        range_of = split(family, num_ranges).range_of

        @jax.jit
        def alone(w, sampler=sampler):
            return sampler.sample(one(w), Z, Y, keys=KEYS)

        @jax.jit
        def owned(stack, sampler=sampler, range_of=range_of):
            owners = Ranges(lambda i: one(stack[i]), range_of)
            return sampler.sample(owners, Z, Y, keys=KEYS)

        copies = jnp.stack([W] * num_ranges)
        np.testing.assert_array_equal(owned(copies), alone(W))


@pytest.mark.parametrize("name", samplers.names())
def test_every_row_is_asked_of_its_owner(name):
    """Against one denoiser that chooses the weights by the time that it is asked at."""
    p, owners = PROCESSES["cosine"], split("cosine", 4)
    stack = jnp.stack([W, -W, 2 * W, W.T])

    def chooses(x_t, t, y):
        return network(stack[owners.range_of(t)[0]], x_t, t, y)

    sampler = samplers.make(name, process=p, num_steps=6)
    ranges = Ranges(lambda i: one(stack[i]), owners.range_of)
    got = sampler.sample(ranges, Z, Y, keys=KEYS)
    np.testing.assert_array_equal(got, sampler.sample(chooses, Z, Y, keys=KEYS))
    assert np.abs(got - sampler.sample(one(W), Z, Y, keys=KEYS)).max() > 0.01


@pytest.mark.parametrize("name", samplers.names())
def test_weights_are_taken_once_a_batch_in_order(name):
    taken, traces = [], []

    def at(i):
        jax.debug.callback(lambda i: taken.append(int(i)), i, ordered=True)

        def denoise(x_t, t, y):
            traces.append(1)
            return 0.5 * x_t

        return denoise

    keywords = dict(num_steps=8, spacing="uniform")
    sampler = samplers.make(name, process=PROCESSES["cosine"], **keywords)
    sampler.sample(Ranges(at, split("cosine", 4).range_of), Z, Y, keys=KEYS)
    jax.effects_barrier()
    assert taken == [3, 2, 1, 0]
    assert len(traces) <= 2  # compiled once, see test_the_network_is_traced_once


def test_rows_of_one_range_are_walked_as_without_ranges():
    """XLA unfolds one round of nested loops into other arithmetic than of one."""
    taken = []

    def at(i):
        taken.append(i)
        return one(W)

    sampler = samplers.make("heun", process=PROCESSES["edm"], num_steps=1)
    sampler.sample(Ranges(at, split("edm", 2).range_of), Z, Y)
    assert taken == [1] and isinstance(taken[0], int)
