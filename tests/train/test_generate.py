"""Image i of a seed is the same image in any batch, and no other purpose's."""

import jax
import numpy as np
import pytest
import toy

from kdiff_jax import samplers
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import Interrupted
from kdiff_jax.train import generate, parallel, signals

NET = toy.NETS["student"]
PARAMS = NET.init(jax.random.key(0))


def images(num, *, devices=1, batch_size=4, first=0, purpose="sample"):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    sampler = samplers.make("ddim", process=cosine(), num_steps=3)
    make = generate.make_generator(
        NET, sampler, image_shape=toy.SHAPE, mesh=mesh, purpose=purpose
    )
    labels = generate.cycled_labels(num, 10, first)
    keywords = dict(
        seed=5, labels=labels, batch_size=batch_size, mesh=mesh, first=first
    )
    parts = list(generate.batches(make, PARAMS, **keywords))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def test_neither_batches_nor_devices_matter():
    z, x0 = images(10)
    for keywords in (dict(batch_size=10), dict(devices=4), dict(batch_size=3)):
        other_z, other = images(10, **keywords)
        np.testing.assert_array_equal(other_z, z)
        np.testing.assert_allclose(other, x0, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(images(4, first=6)[0], z[6:])


def test_pairs_to_train_on_share_no_noise_with_samples():
    z, pairs = images(10)[0], images(10, purpose="pairs")[0]
    assert not np.isin(z, pairs).any()


def test_a_signal_stops_between_batches():
    signals._asked.set()
    try:
        with pytest.raises(Interrupted):
            images(4)
    finally:
        signals.reset()
