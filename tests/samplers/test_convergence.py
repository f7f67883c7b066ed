"""Each sampler's order of convergence, on problems with an analytic denoiser.

In double precision, so that rounding does not hide the order. The last step of every
sampler returns x0_hat at the last level; the closed form stops there too.
"""

import analytic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import samplers
from kdiff_jax.diffusion import process
from kdiff_jax.errors import ConfigError

# name, process, keywords, order
CASES = [
    ("ddim", "cosine", {}, 1),
    ("ddim", "edm", {}, 1),
    ("euler", "edm", {}, 1),
    ("euler", "cosine", {}, 1),
    ("heun", "edm", {}, 2),
    ("heun", "cosine", {}, 2),
    ("euler", "flow", {}, 1),
    ("dpm_solver", "edm", {}, 2),
    ("dpm_solver", "cosine", {"spacing": "uniform_logsnr"}, 2),
]
# Ends at which 32 to 128 steps are in the regime of their order.
ENDS = {
    "cosine": dict(logsnr_min=-9.0, logsnr_max=9.0),
    "edm": dict(sigma_min=0.02, sigma_max=20.0),
    "flow": {},
}


def slope(num_steps, errors):
    """-d log(error) / d log(N), by least squares."""
    return -np.polyfit(np.log(num_steps), np.log(errors), 1)[0]


def run(name, p, denoise, num_steps, **keywords):
    z = jnp.linspace(-2.0, 2.0, 8, dtype=jnp.float64).reshape(2, 2, 2, 1)
    sampler = samplers.make(name, process=p, num_steps=num_steps, **keywords)
    return np.asarray(sampler.sample(denoise, z))


def last_time(p, name, num_steps, keywords):
    """Time of the last network call."""
    seen = []

    def spy(x_t, t, y):
        jax.debug.callback(lambda t: seen.append(float(t[0])), t)
        return 0 * x_t

    run(name, p, spy, num_steps, **keywords)
    jax.effects_barrier()
    return seen[-1]


@pytest.mark.parametrize("name, family, keywords, order", CASES)
def test_order_on_a_gaussian(name, family, keywords, order):
    with jax.enable_x64(True):
        p = process.make(family, **ENDS[family])
        z = jnp.linspace(-2.0, 2.0, 8, dtype=jnp.float64).reshape(2, 2, 2, 1)
        steps, errors = np.array([32, 64, 128]), []
        for num in steps:
            got = run(name, p, analytic.gaussian(p), int(num), **keywords)
            t = last_time(p, name, int(num), keywords)
            x_t = analytic.gaussian_flow(p, z, t)
            exact = analytic.gaussian(p)(x_t, jnp.full(2, t), None)
            errors.append(np.abs(got - exact).max())
        assert abs(slope(steps, errors) - order) < 0.25, (errors, slope(steps, errors))


def test_heun_on_straight_paths_corrects_the_last_step_too():
    with jax.enable_x64(True):
        p = process.flow()
        z = jnp.linspace(-2.0, 2.0, 8, dtype=jnp.float64).reshape(2, 2, 2, 1)
        exact = analytic.gaussian_flow(p, z, 0.0)
        steps = np.array([32, 64, 128])
        errors = [
            np.abs(run("heun", p, analytic.gaussian(p), int(num)) - exact).max()
            for num in steps
        ]
        assert abs(slope(steps, errors) - 2) < 0.25, errors
        assert samplers.make("heun", process=p, num_steps=4).nfe == 8
    for process_, keywords, rule in (
        (p, dict(S_churn=1.0), "S_churn=1.0: is not for straight paths"),
        (process.edm(), dict(correct_last=True), "correct_last=True: is for .* 'flow'"),
    ):
        with pytest.raises(ConfigError, match=rule):
            samplers.make("heun", process=process_, num_steps=4, **keywords)


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("dpm_solver", 2)])
def test_order_on_a_mixture(name, order):
    with jax.enable_x64(True):
        p = process.make("edm", **ENDS["edm"])
        reference = run("heun", p, analytic.mixture(p), 2048)
        steps = np.array([32, 64, 128])
        errors = [
            np.abs(run(name, p, analytic.mixture(p), int(num)) - reference).max()
            for num in steps
        ]
        assert abs(slope(steps, errors) - order) < 0.35, (errors, slope(steps, errors))


# Not renoise, which is for students: those give samples, where a teacher gives means.
@pytest.mark.parametrize("name", [n for n in samplers.names() if n != "renoise"])
@pytest.mark.parametrize("family", process.names())
def test_every_sampler_finds_the_distribution(name, family):
    """Standard deviation of 4096 samples of N(0, 0.5^2); the error of it is 0.0055."""
    p = process.make(family)
    z = jax.random.normal(jax.random.key(1), (4096, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), 4096)
    sampler = samplers.make(name, process=p, num_steps=250)
    x0 = sampler.sample(analytic.gaussian(p), z, keys=keys)
    # 250 ancestral steps of EDM's coarse end are still 4 % off
    np.testing.assert_allclose(x0.std(), analytic.STD, atol=0.03)
    np.testing.assert_allclose(x0.mean(), 0, atol=0.03)


def test_churn_keeps_the_distribution():
    p = process.edm()
    z = jax.random.normal(jax.random.key(1), (4096, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), 4096)
    sampler = samplers.make("heun", process=p, num_steps=64, S_churn=20.0)
    x0 = sampler.sample(analytic.gaussian(p), z, keys=keys)
    np.testing.assert_allclose(x0.std(), analytic.STD, atol=0.03)
    # and it does draw: the deterministic one keeps z's order exactly
    assert np.corrcoef(x0.ravel(), z.ravel())[0, 1] < 0.95
