"""The autoencoder's loss by hand, and who learns from which part of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY

from kdiff_jax import methods, rng
from kdiff_jax.encoders import autoencoder_kl
from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import gaussian
from kdiff_jax.method import Context, Net

SHAPE = (4, 4, 1)
PARAMS = {"a": jnp.float32(0.5), "b": jnp.float32(3.0)}


def linear():
    """Latents N(a x, e^-40), and b z of them: reconstructions are a b x."""

    def encode(params, x):
        return params["a"] * x, jnp.full_like(x, -40.0)

    def decode(params, z):
        return params["b"] * z

    return Net(lambda key: PARAMS, decode, encode, image_shape=SHAPE)


def make(**keywords):
    sizes = dict(disc_width=4, disc_levels=1)
    given = sizes | dict(gan_start=10, gan_warmup=4) | keywords
    return methods.make(
        "autoencoder", nets={"student": linear()}, process=None, **given
    )


def disc_params(method, bias=None):
    """Random ones, or such that every logit is the bias."""
    params = method.nets["disc"].init(jax.random.key(0))
    if bias is None:
        return params
    params = jax.tree.map(jnp.zeros_like, params)
    params["conv_out"]["bias"] = params["conv_out"]["bias"] + bias
    return params


def loss_of(method, params, step=0):
    x0 = jnp.full((2, *SHAPE), 0.4)
    keys = rng.example_keys(jax.random.key(1), 0, jnp.arange(2))
    ctx = Context(params, {}, {}, {}, {"x0": x0}, keys, None, step=jnp.int32(step))
    (phase,) = method.phases
    return lambda given: phase.loss(given, ctx)


def test_the_loss_by_hand():
    method = make(kl_weight=0.01, gan_weight=0.1)
    params = {"student": PARAMS, "disc": disc_params(method, bias=0.5)}
    # a x = .2: |.6 - .4| = .2; 16 latents of (.2^2 + 0 - 1 + 40) / 2 nats. Logits of
    # .5: the generator's -.5, and the discriminator's (1 - .5) + (1 + .5) = 2.
    kl = 16 * (0.04 + 39) / 2
    value, aux = loss_of(method, params, step=12)(params)  # halfway in the warm-up
    assert set(method.nets) == {"student", "disc"}
    np.testing.assert_allclose(aux.metrics["l1"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["kl"], kl, rtol=1e-6)
    whole = 0.2 + 0.01 * kl + 0.1 * 0.5 * -0.5
    np.testing.assert_allclose(aux.metrics["loss"], whole, rtol=1e-5)
    np.testing.assert_allclose(value, whole + 2, rtol=1e-5)
    early = loss_of(method, params, step=10)(params)[1].metrics["loss"]
    late = loss_of(method, params, step=99)(params)[1].metrics["loss"]
    np.testing.assert_allclose(early - late, 0.1 * 0.5, rtol=1e-4)


def test_neither_learns_what_the_other_does():
    method, alone = make(gan_weight=1.0), make(gan_weight=0.0)
    assert set(alone.nets) == {"student"}
    params = {"student": PARAMS, "disc": disc_params(method)}

    def gradient(method, step):
        roles = {role: params[role] for role in method.nets}
        loss = loss_of(method, params, step)
        return jax.grad(lambda given: loss(given)[0])(roles)

    early, late = gradient(method, 0), gradient(method, 99)
    without = gradient(alone, 99)["student"]
    # Before the start the discriminator learns, and the autoencoder not from it.
    np.testing.assert_allclose(early["student"]["b"], without["b"], **IDENTITY)
    assert abs(late["student"]["b"] - without["b"]) > 1e-3
    # What it is worth to the autoencoder moves no leaf of the discriminator.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **IDENTITY),
        *(early["disc"], late["disc"]),
    )
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(early["disc"]))


def test_a_draw_has_the_gaussian_that_the_divergence_is_of():
    mean, logvar = jnp.array([[1.0, -1.0]]), jnp.log(jnp.array([[4.0, 1.0]]))
    # (1 + 4 - 1 - log 4) / 2 + (1 + 1 - 1 - 0) / 2
    expected = (4 - np.log(4)) / 2 + 0.5
    found = gaussian.kl_to_normal_per_example(mean, logvar)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
    shape = (1, 1, 1, 2)
    drawn = autoencoder_kl.draw(
        mean.reshape(shape), logvar.reshape(shape), jnp.full(shape, 0.5)
    )
    np.testing.assert_allclose(drawn.ravel(), [2.0, -0.5], rtol=1e-6)


def test_lpips_needs_its_files():
    with pytest.raises(ConfigError, match="^lpips_weights"):
        make(lpips_weight=1.0)
