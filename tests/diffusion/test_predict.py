"""Every arrow between x0, eps, v and the score; the accuracy that `predict` states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import REORDER

from kdiff_jax.diffusion import predict, process

NAMES = ("x0", "eps", "v", "score")
PAIRS = list(itertools.permutations(NAMES, 2))
UNIT = 2.0**-24  # rounding unit of float32


def truth(t):
    """Everything about the same x_t, in float64, as seen by float32 factors."""
    p = process.cosine()
    alpha, sigma = p.alpha(t), p.sigma(t)
    a, s = (np.asarray(c, np.float64)[:, None, None, None] for c in (alpha, sigma))
    norm = np.sqrt(a**2 + s**2)
    a, s = a / norm, s / norm
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, len(t), 4, 4, 2))
    values = dict(
        x0=x0, eps=eps, v=a * eps - s * x0, score=-eps / s, x_t=a * x0 + s * eps
    )
    return values, dict(alpha=alpha, sigma=sigma)


@pytest.mark.parametrize("have, want", PAIRS)
def test_arrows_agree_and_keep_the_accuracy_they_state(have, want):
    t = jnp.array([0.0, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0])
    values, factors = truth(t)
    arrow = getattr(predict, f"{want}_from_{have}")
    x_t, given = (jnp.asarray(values[k], jnp.float32) for k in ("x_t", have))
    got = arrow(x_t, given, **factors)
    alpha, sigma = (np.asarray(f) for f in factors.values())
    divisor = {
        ("eps", "x0"): alpha,
        ("score", "x0"): alpha,
        ("x0", "eps"): sigma,
        ("score", "eps"): sigma,
        ("x0", "v"): sigma,
        ("eps", "v"): alpha,
        ("score", "v"): alpha,
        ("x0", "score"): sigma**2,
        ("v", "score"): sigma,
        ("eps", "score"): sigma,
    }.get((have, want), 1.0)
    error = np.abs(got - values[want]).max(axis=(1, 2, 3))
    assert np.all(error <= 16 * UNIT / divisor * (1 + 1 * (want == "score"))), error


@pytest.mark.parametrize("have, want", PAIRS)
def test_round_trips(have, want):
    t = jnp.array([0.2, 0.5, 0.8])
    values, factors = truth(t)
    x_t, given = (jnp.asarray(values[k], jnp.float32) for k in ("x_t", have))
    there = getattr(predict, f"{want}_from_{have}")(x_t, given, **factors)
    back = getattr(predict, f"{have}_from_{want}")(x_t, there, **factors)
    np.testing.assert_allclose(back, given, **REORDER)


def test_both_is_right_when_both_are_and_takes_the_better_one_at_the_ends():
    t = jnp.array([0.0, 0.5, 1.0])
    values, factors = truth(t)
    x_t, x0, eps = (jnp.asarray(values[k], jnp.float32) for k in ("x_t", "x0", "eps"))
    both = lambda x0, eps: predict.x0_from_both(x_t, x0, eps, **factors)  # noqa: E731
    np.testing.assert_allclose(both(x0, eps), x0, **REORDER)
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    # at t = 0 a wrong x0~ does not matter, at t = 1 a wrong eps~ does not
    np.testing.assert_allclose(both(noise, eps)[0], x0[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(both(x0, noise)[2], x0[2], rtol=0, atol=3e-4)


def test_by_hand():
    # alpha = .6, sigma = .8, x0 = 1, eps = 2: x_t = 2.2, v = 1.2 - .8 = .4
    one = jnp.ones((1, 1, 1, 1))
    factors = dict(alpha=jnp.array([0.6]), sigma=jnp.array([0.8]))
    for want, value in dict(x0=1.0, eps=2.0, v=0.4, score=-2.5).items():
        for have, given in dict(x0=1.0, eps=2.0, v=0.4, score=-2.5).items():
            if have != want:
                got = getattr(predict, f"{want}_from_{have}")(
                    2.2 * one, given * one, **factors
                )
                np.testing.assert_allclose(got, value * one, rtol=1e-5)
