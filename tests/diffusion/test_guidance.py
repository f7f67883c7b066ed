"""Classifier-free guidance: by hand, of a mixture in closed form, and its identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import rng
from kdiff_jax.diffusion import guidance
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError

EDM, COSINE = processes.edm(), processes.cosine()
MEANS = jnp.array([[0.8, -0.1], [-0.8, 0.8], [-0.5, -1.0]])
WEIGHTS, STD = jnp.array([0.5, 0.3, 0.2]), 0.4


def denoise(x_t, t, y):
    # 10 without a label, its label otherwise
    value = jnp.where(y < 0, 10.0, y.astype(jnp.float32)) * t
    return x_t + value[:, None, None, None]


def test_scale_one_is_the_denoiser_itself_and_three_goes_beyond():
    x_t, t, y = jnp.zeros((2, 1, 1, 1)), jnp.ones(2), jnp.array([1, 12])
    assert guidance.guide(denoise, 1.0) is denoise
    # 10 + 3 (1 - 10) = -17, 10 + 3 (12 - 10) = 16
    guided = guidance.guide(denoise, 3.0)(x_t, t, y)
    np.testing.assert_array_equal(guided.ravel(), [-17, 16])


def log_density(x_t, alpha, sigma, label):
    """log p(x_t | label) of a Gaussian for each class; of all of them for -1."""
    variance = (alpha * STD) ** 2 + sigma**2
    logs = -0.5 * ((x_t[None] - alpha * MEANS) ** 2).sum(1) / variance
    whole = jax.nn.logsumexp(logs + jnp.log(WEIGHTS))
    return jnp.where(label < 0, whole, logs[label])


def exact(process):
    """The denoiser of the mixture, with and without a label, by its score."""

    def at(x_t, t, y):
        alpha, sigma = process.alpha(t), process.sigma(t)
        score = jax.grad(log_density)(x_t.ravel(), alpha, sigma, y)
        return ((x_t.ravel() + sigma**2 * score) / alpha).reshape(x_t.shape)

    return jax.vmap(at)


@pytest.mark.parametrize("process", [EDM, COSINE], ids=["edm", "cosine"])
def test_a_guided_mixture_follows_the_guided_score(process):
    """eps = eps_null + w (eps_y - eps_null), and eps = -sigma times the score."""
    x_t = rng.normal(jax.random.split(jax.random.key(0), 6), "x", (1, 1, 2))
    y = jnp.array([0, 1, 2, 0, 1, 2])
    t = jnp.linspace(0.2, 0.9, 6)
    found = guidance.guide(exact(process), 2.5)(x_t, t, y)
    alpha, sigma = (
        np.asarray(f(t), np.float64) for f in (process.alpha, process.sigma)
    )
    eps = {}
    for name, label in (("y", y), ("null", jnp.full(6, -1))):
        grad = jax.vmap(jax.grad(log_density))
        score = grad(x_t.reshape(6, 2), process.alpha(t), process.sigma(t), label)
        eps[name] = -sigma[:, None] * np.asarray(score, np.float64)
    guided = eps["null"] + 2.5 * (eps["y"] - eps["null"])
    x0_hat = (np.asarray(x_t).reshape(6, 2) - sigma[:, None] * guided) / alpha[:, None]
    np.testing.assert_allclose(found.reshape(6, 2), x0_hat, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_outside_the_interval_of_levels_the_label_alone_counts(skip):
    x_t, y = jnp.zeros((4, 1, 1, 1)), jnp.full(4, 3)
    t = jnp.array([0.5, 0.6, 2.0, 2.1])  # sigma of EDM's process
    options = dict(process=EDM, interval=(0.5, 2.0), skip=skip)
    found = guidance.guide(denoise, 2.0, **options)(x_t, t, y).ravel() / t
    np.testing.assert_allclose(found, [3, -4, -4, 3], rtol=1e-6)  # 10 + 2 (3 - 10)
    # Of a process that keeps the variance they are sigma / alpha.
    t = jnp.array([0.2, 0.8, 0.2, 0.8])
    level = np.asarray(COSINE.sigma(t) / COSINE.alpha(t))
    between = (float(level[0]), 2 * float(level[0]))
    options = dict(process=COSINE, interval=(0.9 * between[0], between[1]), skip=skip)
    found = guidance.guide(denoise, 2.0, **options)(x_t, t, y).ravel() / t
    np.testing.assert_allclose(found, [-4, 3, -4, 3], rtol=1e-6)


def test_an_empty_interval_is_refused():
    with pytest.raises(ConfigError, match=r"guidance_interval=\(2, 1\): .* low < high"):
        guidance.within(jnp.ones(1), EDM, (2, 1))


def test_labels_are_dropped_by_example_and_only_if_asked():
    keys = rng.example_keys(jax.random.key(0), 0, jnp.arange(4000))
    y = jnp.arange(4000) % 10
    assert guidance.drop(keys, y, 0.0) is y
    dropped = np.asarray(guidance.drop(keys, y, 0.2))
    np.testing.assert_array_equal(dropped[dropped >= 0], np.asarray(y)[dropped >= 0])
    assert set(dropped[dropped < 0]) == {-1}
    assert 0.17 < (dropped < 0).mean() < 0.23
    # An example's own key decides, in whatever batch it is.
    np.testing.assert_array_equal(guidance.drop(keys[7:9], y[7:9], 0.2), dropped[7:9])


def test_vectors_are_guided_and_dropped_as_labels_are():
    y = jnp.asarray(np.random.RandomState(0).randn(64, 3), jnp.float32)

    def denoise(x_t, t, y):
        return x_t + y.sum(1)[:, None]

    x_t, t = jnp.ones((64, 1)), jnp.zeros(64)
    found = guidance.guide(denoise, 3.0)(x_t, t, y)
    np.testing.assert_allclose(found, 1 + 3 * y.sum(1)[:, None], rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 64)
    dropped = guidance.drop(keys, y, 0.5)
    gone = np.asarray(guidance.drop(keys, jnp.zeros(64, jnp.int32), 0.5)) == -1
    assert 10 < gone.sum() < 54  # the same examples as of labels
    np.testing.assert_array_equal(dropped, jnp.where(gone[:, None], 0, y))
