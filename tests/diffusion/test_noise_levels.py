"""The noise levels of training: closed forms and moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY

from kdiff_jax.diffusion import noise_levels, process

KEYS = jax.random.split(jax.random.key(0), 20_000)


def test_by_hand():
    np.testing.assert_allclose(
        noise_levels.lognormal(jnp.array([-1.0, 0.0, 1.0])),
        np.exp([-2.4, -1.2, 0.0]),
        **IDENTITY,
    )
    # ends of VE, and its geometric middle sqrt(2)
    np.testing.assert_allclose(
        noise_levels.loguniform(jnp.array([0.0, 0.5, 1.0])),
        [0.02, 2**0.5, 100],
        rtol=1e-5,
    )
    # u = 0 is t = 1: sqrt(exp(9.95 + .1) - 1); u = 1 is t = 1e-5: about sqrt(1e-6)
    np.testing.assert_allclose(
        noise_levels.vp(jnp.array([0.0, 1.0])),
        [np.sqrt(np.expm1(10.05)), np.sqrt(np.expm1(0.5 * 19.9e-10 + 1e-6))],
        rtol=2e-3,
    )


def test_edm_draws_a_lognormal():
    t = noise_levels.make("edm", process.edm())(KEYS)
    # standard errors: 1.2 / sqrt(20000) = .0085, and .006 of the deviation
    np.testing.assert_allclose(jnp.log(t).mean(), -1.2, atol=0.03)
    np.testing.assert_allclose(jnp.log(t).std(), 1.2, atol=0.03)


def test_parameters_reach_the_distribution():
    t = noise_levels.make("ve", process.edm(), sigma_min=1.0, sigma_max=2.0)(KEYS)
    assert 1 <= t.min() and t.max() <= 2
    np.testing.assert_allclose(jnp.log(t).mean(), np.log(2) / 2, atol=0.01)


def test_process_time_is_uniform():
    t = noise_levels.make("process", process.discrete(num_timesteps=4))(KEYS)
    np.testing.assert_allclose(np.bincount(t.astype(int)) / len(t), 0.25, atol=0.02)


def test_mistakes():
    with pytest.raises(ValueError, match="times='log': unknown"):
        noise_levels.make("log", process.edm())
    with pytest.raises(ValueError, match="times='edm': draws noise levels"):
        noise_levels.make("edm", process.cosine())
