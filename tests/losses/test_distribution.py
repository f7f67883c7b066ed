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


# f of every divergence E_q[f(p / q)].
F = {
    "reverse_kl": lambda r: -jnp.log(r),
    "forward_kl": lambda r: r * jnp.log(r),
    "jensen_shannon": lambda r: r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2),
    "softened_reverse_kl": lambda r: (r + 1) * jnp.log((r + 1) / (2 * r)),
    "squared_hellinger": lambda r: (1 - jnp.sqrt(r)) ** 2,
    "jeffreys": lambda r: (r - 1) * jnp.log(r),
}
divergences = pytest.mark.parametrize("name", distribution.DIVERGENCES)


@divergences
def test_the_weight_of_a_divergence_is_its_second_derivative_times_r_squared(name):
    r = jnp.array([0.11, 0.5, 1.0, 2.0, 9.0])
    expected = jax.vmap(jax.grad(jax.grad(F[name])))(r) * r**2
    found = distribution.divergence_weight(name, jnp.log(r))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@divergences
def test_weighted_gradients_are_those_of_the_divergence(name):
    """Of p = N(0, v) and q = N(m, v) after noise: E_q[h score difference] = dD/dm."""
    m, v, t = 0.4, 1.5, 0.8
    noisy = v + t**2
    x = jnp.linspace(-8.0, 8.0, 4001)

    def density(m):
        return jnp.exp(-((x - m) ** 2) / (2 * noisy)) / jnp.sqrt(2 * jnp.pi * noisy)

    def divergence(m):
        return jnp.sum(density(m) * F[name](density(0.0) / density(m))) * (x[1] - x[0])

    def denoiser(mean):
        return lambda x_t, t: (v * x_t + t[:, None, None, None] ** 2 * mean) / noisy

    images = x.reshape(-1, 1, 1, 1)
    zero = jnp.zeros_like(images)
    g = distribution.gradient(
        *(denoiser(0.0), denoiser(m), images, jnp.full(len(x), t), zero),
        process=EDM,
        weight="sigma",
    )
    log_ratio = jnp.log(density(0.0) / density(m))
    h = distribution.divergence_weight(name, log_ratio)
    found = jnp.sum(density(m) * h * g.ravel() / t) * (x[1] - x[0])
    np.testing.assert_allclose(found, jax.grad(divergence)(m), rtol=1e-3)


def test_forward_kl_pulls_where_the_student_has_too_little():
    """Of two modes, each half of the data, the student gives the second a tenth."""
    log_ratio = jnp.log(jnp.array([0.5 / 0.9, 0.5 / 0.1]))
    pull = {n: distribution.divergence_weight(n, log_ratio) for n in F}
    relative = {n: h[1] / h[0] for n, h in pull.items()}
    np.testing.assert_allclose(relative["reverse_kl"], 1)
    np.testing.assert_allclose(relative["forward_kl"], 9, rtol=1e-6)
    np.testing.assert_allclose(relative["squared_hellinger"], 3, rtol=1e-6)
    np.testing.assert_allclose(relative["jeffreys"], 6 / (14 / 9), rtol=1e-6)
    np.testing.assert_allclose(relative["jensen_shannon"], 7 / 3, rtol=1e-6)
    assert relative["softened_reverse_kl"] < 1  # it leaves them alone even more


@divergences
def test_ratios_are_bounded_and_give_no_gradient(name):
    far = jnp.array([-1e9, -jnp.log(10.0), jnp.log(10.0), 1e9])
    h = distribution.divergence_weight(name, far)
    np.testing.assert_allclose(h[:2], h[0], rtol=1e-6)
    np.testing.assert_allclose(h[2:], h[3], rtol=1e-6)
    slope = jax.grad(lambda x: distribution.divergence_weight(name, x).sum())(T)
    np.testing.assert_array_equal(slope, jnp.zeros_like(T))


def test_score_identity_by_hand():
    # x_t = [1.5, -2], [-1.5, 7]; real is half of it, fake a fourth, so d a fourth too;
    # x0_real - x = [-0.25, 1], [-1.25, 0.5], mean sizes 0.625 and 0.875.
    d = np.array([[0.375, -0.5], [-0.375, 1.75]])
    rest = np.array([[-0.25, 1.0], [-1.25, 0.5]])
    expected = (d * (rest - 1.2 * d)).sum(1) / np.array([0.625, 0.875])
    found = distribution.score_identity(
        times(0.5), times(0.25), X, T, EPS, process=EDM, alpha=1.2
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def of_gaussian(mean, variance):
    """The exact denoiser of N(mean, variance) under EDM's process."""

    def denoise(x_t, t):
        t = t[:, None, None, None]
        return (variance * x_t + t**2 * mean) / (variance + t**2)

    return denoise


def slope_of_score_identity(mean, std, alpha):
    """(dL/dmean, dL/dstd) of a student mean + std z; teacher N(0, 0.25), exact fake.

    Of single pixels, each with its own z and noise: f32[20000].
    """
    z, eps = jax.random.normal(jax.random.key(0), (2, 20_000, 1, 1, 1))
    t = jnp.full(len(z), 0.7)
    real, fake = of_gaussian(0.0, 0.25), of_gaussian(mean, std**2)

    def loss(of):
        x = of[:, 0, None, None, None] + of[:, 1, None, None, None] * z
        return distribution.score_identity(
            real, fake, x, t, eps, process=EDM, alpha=alpha
        ).sum()

    both = jnp.tile(jnp.array([mean, std]), (len(z), 1))
    x = mean + std * z
    scale = jnp.abs(x - real(EDM.add_noise(x, eps, t), t)).ravel()
    return jax.grad(loss)(both), 1 / jnp.maximum(scale, 1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_identity_leaves_a_perfect_student_alone(alpha):
    slopes, w = slope_of_score_identity(0.0, 0.5, alpha)
    np.testing.assert_allclose(slopes / w[:, None], 0, atol=2e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_score_identity_moves_a_mean_to_the_teachers(alpha):
    """d is -(1 - gain) mean everywhere; x0_real - x moves by gain - 1 with the mean."""
    slopes, w = slope_of_score_identity(0.3, 0.5, alpha)
    gain = 0.25 / (0.25 + 0.49)
    np.testing.assert_allclose(slopes[:, 0] / w, (1 - gain) ** 2 * 0.3, rtol=1e-3)


@pytest.mark.parametrize("std", [0.3, 0.8])
def test_score_identity_moves_a_spread_to_the_teachers(std):
    """Without w, alpha = 1: E dL/dstd = 2 std (fake gain - 1) (gain - fake gain)."""
    slopes, w = slope_of_score_identity(0.0, std, 1.0)
    gain, fake = 0.25 / (0.25 + 0.49), std**2 / (std**2 + 0.49)
    found = (slopes[:, 1] / w).mean()
    np.testing.assert_allclose(found, 2 * std * (fake - 1) * (gain - fake), rtol=0.05)
    assert (found > 0) == (std > 0.5)  # a step goes down


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
    with pytest.raises(ConfigError, match="f_divergence='chi': unknown; choose one of"):
        distribution.divergence_weight("chi", T)
