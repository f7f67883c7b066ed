"""Distribution matching by hand; its sign, its zero, what flows where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import distribution

EDM, COSINE = processes.edm(), processes.cosine()
X = jnp.array([[1.0, -2.0], [0.5, 3.0]]).reshape(2, 1, 2, 1)
EPS = jnp.array([[1.0, 0.0], [-1.0, 2.0]]).reshape(2, 1, 2, 1)
T = jnp.array([0.5, 2.0])


def times(w):
    """The denoiser x0_hat = w x_t."""
    return lambda x_t, t: w * x_t


def gradient(real, fake, process=EDM, t=T, **keywords):
    return distribution.gradient(real, fake, X, t, EPS, process=process, **keywords)


def test_gradient_by_hand():
    # x_t = [1.5, -2], [-1.5, 7]; real is half of it, fake a fourth.
    # |x - real| = [0.25, 1], [1.25, 0.5], means 0.625 and 0.875.
    expected = -0.25 * np.array([[1.5 / 0.625, -2 / 0.625], [-1.5 / 0.875, 7 / 0.875]])
    found = gradient(times(0.5), times(0.25))
    np.testing.assert_allclose(found.reshape(2, 2), expected, rtol=1e-6)


@pytest.mark.parametrize("weight", ["sigma", "sigma_cubed"])
def test_ablated_weights_scale_the_difference_by_the_time(weight):
    """w_t alpha (s_fake - s_real), from the scores themselves, with the paper's w_t."""
    t = jnp.array([0.3, 0.8])
    alpha, sigma = (f(t)[:, None, None, None] for f in (COSINE.alpha, COSINE.sigma))
    x_t = alpha * X + sigma * EPS
    real, fake = 0.5 * x_t, 0.25 * x_t
    scores = [-(x_t - alpha * x0) / sigma**2 for x0 in (real, fake)]
    w_t = sigma / alpha if weight == "sigma" else sigma**3 / alpha
    expected = w_t * alpha * (scores[1] - scores[0])
    found = gradient(times(0.5), times(0.25), COSINE, t, weight=weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("weight", distribution.WEIGHTS)
def test_equal_scores_move_nothing(weight):
    found = gradient(times(0.7), times(0.7), weight=weight)
    np.testing.assert_array_equal(found, np.zeros_like(X))


def test_a_teacher_that_agrees_everywhere_moves_nothing():
    """The normalisation would be 0 / 0."""
    found = gradient(lambda x_t, t: X, times(0.1))
    np.testing.assert_array_equal(found, np.zeros_like(X))


@pytest.mark.parametrize("weight", distribution.WEIGHTS)
def test_a_step_goes_towards_the_teacher_and_away_from_the_fake_score(weight):
    real, fake = X + 1.0, X - 1.0
    g = gradient(lambda x, t: real, lambda x, t: fake, weight=weight)
    moved = X - 0.1 * g
    assert (jnp.abs(moved - real) < jnp.abs(X - real)).all()
    assert (jnp.abs(moved - fake) > jnp.abs(X - fake)).all()


def test_surrogate_by_hand_and_its_gradient():
    g = jnp.array([[2.0, -1.0], [0.0, 3.0]]).reshape(2, 1, 2, 1)
    values = distribution.surrogate(X, g)
    np.testing.assert_allclose(values, [0.25 * (4 + 1), 0.25 * 9], rtol=1e-6)
    slope = jax.grad(lambda x: distribution.surrogate(x, g).sum())(X)
    np.testing.assert_allclose(slope, g / 2, rtol=1e-6)


def test_no_gradient_flows_through_the_scores():
    def value(x):
        g = distribution.gradient(times(0.5), times(0.1), x, T, EPS, process=EDM)
        return jnp.sum(distribution.surrogate(x, g))

    slope = jax.grad(value)(X)
    expected = gradient(times(0.5), times(0.1)) / 2
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_fake_score_by_hand():
    # 0.5 x_t - x = [-0.25, 1], [-1.25, 0.5]; weights 1/sigma^2 + 4 = 8 and 4.25.
    found = distribution.fake_score(times(0.5), X, T, EPS, process=EDM)
    expected = [8 * (0.0625 + 1) / 2, 4.25 * (1.5625 + 0.25) / 2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_students_image_is_a_constant_of_the_fake_scores_loss():
    def value(x):
        return distribution.fake_score(times(0.5), x, T, EPS, process=EDM).sum()

    np.testing.assert_array_equal(jax.grad(value)(X), np.zeros_like(X))


def test_an_unknown_weight_is_refused():
    with pytest.raises(ConfigError, match="weight='l1': unknown; choose one of"):
        gradient(times(0.5), times(0.5), weight="l1")
