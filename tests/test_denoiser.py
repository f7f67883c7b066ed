"""The denoiser: preconditioning around a network, float32 outside of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY

from kdiff_jax import denoiser
from kdiff_jax.diffusion import precondition, process

SHAPE = (4, 4, 3)


class Toy(nn.Module):
    """Depends on everything that it is given; records what was absent."""

    out: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, c_noise, y=None, *, augment=None, dropout_keys=None):
        h = nn.Dense(self.out, dtype=self.dtype)(x)
        h += jnp.tanh(c_noise)[:, None, None, None].astype(self.dtype)
        if y is not None:
            h += y[:, None, None, None].astype(self.dtype)
        if augment is not None:
            h += nn.Dense(1, use_bias=False)(augment)[:, None, None].astype(self.dtype)
        if dropout_keys is not None:
            h += jax.vmap(jax.random.uniform)(dropout_keys)[:, None, None, None]
        return h


X = jax.random.normal(jax.random.key(0), (2, *SHAPE))
T = jnp.array([0.3, 0.7])
Y = jnp.array([1, 2])


@pytest.mark.parametrize("name", precondition.names())
def test_formula(name):
    p = process.edm() if name in ("edm", "vp", "ve", "iddpm") else process.cosine()
    p = process.flow() if name == "velocity" else p
    module = Toy(out=6 if name in ("both", "iddpm") else 3)
    net = denoiser.make(module, p, precondition=name, image_shape=SHAPE)
    params = net.init(jax.random.key(1))
    c = precondition.make(name, p)(T)
    x = c.c_in[:, None, None, None] * X
    output = module.apply({"params": params}, x, c.c_noise)
    expected = c.c_skip[:, None, None, None] * X
    expected += c.c_out[:, None, None, None] * output[..., :3]
    if name == "both":
        expected += c.c_out_eps[:, None, None, None] * output[..., 3:]
    np.testing.assert_allclose(net.apply(params, X, T, Y), expected, **IDENTITY)


def test_labels_reach_a_conditional_network_alone():
    p = process.cosine()
    for num_classes, equal in ((0, True), (3, False)):
        net = denoiser.make(Toy(), p, image_shape=SHAPE, num_classes=num_classes)
        params = net.init(jax.random.key(1))
        one, two = net.apply(params, X, T, Y), net.apply(params, X, T, Y + 1)
        assert np.array_equal(one, two) == equal


def test_augmentation_label_and_dropout_keys_reach_the_network():
    net = denoiser.make(Toy(), process.cosine(), image_shape=SHAPE, augment_dim=9)
    params = net.init(jax.random.key(1))
    plain = net.apply(params, X, T, Y)
    np.testing.assert_array_equal(
        plain, net.apply(params, X, T, Y, augment=jnp.zeros((2, 9)))
    )
    assert not np.allclose(plain, net.apply(params, X, T, Y, augment=jnp.ones((2, 9))))
    keys = jax.random.split(jax.random.key(2), 2)
    assert not np.allclose(plain, net.apply(params, X, T, Y, dropout_keys=keys))


def test_output_and_features_of_one_pass():
    class Observed(Toy):
        def with_features(self, x, c_noise, y=None, **keywords):
            return self(x, c_noise, y, **keywords), [x]

    p = process.edm()
    net = denoiser.make(
        Observed(), p, precondition="edm", image_shape=SHAPE, num_classes=3
    )
    params = net.init(jax.random.key(1))
    keys = dict(dropout_keys=jax.random.split(jax.random.key(2), 2))
    x0_hat, features = net.with_features(params, X, T, Y, **keys)
    np.testing.assert_array_equal(x0_hat, net.apply(params, X, T, Y, **keys))
    c_in = precondition.make("edm", p)(T).c_in
    np.testing.assert_allclose(features[0], c_in[:, None, None, None] * X, **IDENTITY)


def test_preconditioning_is_float32_around_a_bfloat16_network():
    p = process.edm()
    net = denoiser.make(Toy(dtype="bfloat16"), p, precondition="edm", image_shape=SHAPE)
    params = net.init(jax.random.key(1))
    t = jnp.array([0.002, 0.002])  # c_skip is almost 1: bfloat16 would lose the image
    x0_hat = net.apply(params, X, t, Y)
    assert x0_hat.dtype == jnp.float32
    np.testing.assert_allclose(x0_hat, X, atol=0.02)


def test_keywords_reach_the_preconditioning():
    p = process.edm()
    net = denoiser.make(Toy(), p, precondition="edm", image_shape=SHAPE, sigma_data=1.0)
    params = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(1)))
    # F = tanh(c_noise) = 0 at sigma = 1: x0_hat = x / 2
    np.testing.assert_allclose(net.apply(params, X, jnp.ones(2), Y), X / 2, **IDENTITY)
