"""Targets and losses of progressive distillation equal the reference's.

Reference: google-research/diffusion_distillation (Apache-2.0), by the mirror of devzhk
at cfffd04c, 2023-03-27; JAX 0.10.2, float32, random weights, student and teacher apart.
"""

import functools

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from tolerance import LOSS, UNET

from kdiff_jax import denoiser, domain, methods
from kdiff_jax.diffusion import predict, process
from kdiff_jax.losses import regression
from kdiff_jax.method import Context
from kdiff_jax.methods.progressive import make_target

COSINE = process.cosine()


@functools.cache
def networks(output):
    """(arrays, student, teacher); each a function of (x_t, t)."""
    name = f"gr_dd_tiny_{'both' if output == 'both' else 'uncond'}"
    pair = []
    for which in (name, f"{name}_teacher"):
        module, params = loaders.network(which)
        net = denoiser.make(module, COSINE, precondition=output, image_shape=(8, 8, 3))
        pair.append(jax.jit(functools.partial(net.apply, params)))
    return loaders.arrays(name), *pair


@pytest.mark.parametrize("num_steps", [4, 16])
@pytest.mark.parametrize("output", ["x", "eps", "v", "both"])
def test_targets_and_losses(output, num_steps):
    data, student, teacher = networks(output)
    x0, eps, i = (jnp.asarray(data[k]) for k in ("x", "eps", "distill_i"))
    i = jnp.minimum(i, num_steps - 1) if i.max() >= num_steps else i
    x_t, t, target = make_target(teacher, x0, eps, i, num_steps, process=COSINE)
    key = f"{output}/distill{num_steps}"

    expected = data[f"{key}/x_target"]
    # A network that predicts eps divides by alpha = 5e-5 at t = 1: relative to the max.
    scale = max(1.0, np.abs(expected).max()) if output == "eps" else 1.0
    bound = dict(UNET, atol=5e-4) if output == "both" else UNET
    np.testing.assert_allclose(target / scale, expected / scale, **bound)

    factors = {"alpha": COSINE.alpha(t), "sigma": COSINE.sigma(t)}
    eps_target = predict.eps_from_x0(x_t, target, **factors)
    expected = data[f"{key}/eps_target"]
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(eps_target / scale, expected / scale, **bound)

    error = regression.mse_per_example(student(x_t, t), target)
    for weight in ("constant", "snr", "snr_trunc", "v_mse"):
        loss = regression.weight(weight, COSINE.logsnr(t)) * error
        expected = data[f"{key}/loss/{weight}"]
        # At t = 1 the reference rounds "both"'s weight of eps, alpha, to 0.
        bound = dict(rtol=5e-4) if output == "both" else LOSS
        np.testing.assert_allclose(loss, expected, **bound)


def test_the_methods_loss_is_the_weighted_error_of_its_own_draws():
    """The parts above, put together by `make`, with the drawn i and eps written out."""
    data, student, teacher = networks("x")
    from kdiff_jax import rng
    from kdiff_jax.method import Net

    nets = {
        "student": Net(lambda k: {}, lambda p, x, t, y, **kw: student(x, t)),
        "teacher": Net(lambda k: {}, lambda p, x, t, y, **kw: teacher(x, t)),
    }
    method = methods.make("progressive", nets=nets, process=COSINE)
    x0 = jnp.asarray(data["x"])
    keys = rng.example_keys(jax.random.key(0), 0, jnp.arange(len(x0)))
    batch = {"x0": x0, "y": jnp.zeros(len(x0), jnp.int32)}
    settings, share = {"num_steps": jnp.int32(8)}, domain.whole(0, (0.0, 1.0))
    context = Context(
        {}, {}, {"teacher": {}}, {}, batch, keys, share, settings=settings
    )
    found, _ = method.phases[0].loss({"student": {}}, context)

    i = rng.randint(keys, "i", 8)
    eps = rng.normal(keys, "eps", x0.shape[1:])
    x_t, t, target = make_target(teacher, x0, eps, i, 8, process=COSINE)
    error = np.mean((np.asarray(student(x_t, t)) - target) ** 2, axis=(1, 2, 3))
    angle = np.asarray(t, np.float64) * (np.pi / 2 - 2 * np.arctan(np.exp(-10)))
    snr = 1 / np.tan(angle + np.arctan(np.exp(-10))) ** 2
    np.testing.assert_allclose(found, (np.maximum(snr, 1) * error).mean(), rtol=1e-4)
