"""Teacher losses against NumPy, with the drawn times and noise written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdiff_jax import domain, methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.method import Context, Net

KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))
BATCH = toy.batch(0)


def half(params, x_t, t, y, *, dropout_keys=None, augment=None):
    """A denoiser whose answer can be written down: x0_hat = w x_t."""
    del t, y, dropout_keys, augment
    return params["w"] * x_t


def loss_of(process, **keywords):
    nets = {"student": Net(lambda key: {}, half)}
    method = methods.make("denoise", nets=nets, process=process, **keywords)
    share = domain.whole(0, (process.t_min, process.t_max))
    context = Context({}, {}, {}, {}, BATCH, KEYS, share)
    return method.phases[0].loss({"student": {"w": jnp.float32(0.5)}}, context)[0]


def drawn():
    x0 = np.asarray(BATCH["x0"], np.float64)
    eps = np.asarray(rng.normal(KEYS, "eps", toy.SHAPE), np.float64)
    u = np.asarray(rng.uniform(KEYS, "t"), np.float64)
    return x0, eps, u


@pytest.mark.parametrize("weight", ["constant", "snr", "snr_trunc", "v_mse"])
def test_continuous_loss_is_the_weighted_error(weight):
    x0, eps, t = drawn()
    b = np.arctan(np.exp(-10.0))
    angle = (np.pi / 2 - 2 * b) * t + b
    alpha, sigma = np.cos(angle), np.sin(angle)
    x_t = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * eps
    error = ((x0 - 0.5 * x_t) ** 2).mean((1, 2, 3))
    snr = (alpha / sigma) ** 2
    factor = {
        "constant": np.ones(8),
        "snr": snr,
        "snr_trunc": np.maximum(snr, 1),
        "v_mse": snr + 1,
    }[weight]
    found = loss_of(processes.cosine(), weight=weight)
    np.testing.assert_allclose(found, (factor * error).mean(), rtol=1e-4)


def test_ddpm_loss_is_the_error_of_eps():
    """weight "snr" on x0 is 1 on eps (Ho et al. 2020, Eq. 14)."""
    x0, eps, u = drawn()
    index = np.floor(u * 1000).astype(int)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[index][
        :, None, None, None
    ]
    x_t = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
    eps_hat = (x_t - np.sqrt(alpha_bar) * 0.5 * x_t) / np.sqrt(1 - alpha_bar)
    expected = ((eps - eps_hat) ** 2).mean()
    found = loss_of(processes.discrete(), weight="snr")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_edm_loss():
    x0, eps, _ = drawn()
    n = np.asarray(rng.normal(KEYS, "t", ()), np.float64)
    sigma = np.exp(1.2 * n - 1.2)
    error = ((x0 - 0.5 * (x0 + sigma[:, None, None, None] * eps)) ** 2).mean((1, 2, 3))
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    found = loss_of(processes.edm(), weight="edm", times="edm")
    np.testing.assert_allclose(found, (weight * error).mean(), rtol=1e-4)
