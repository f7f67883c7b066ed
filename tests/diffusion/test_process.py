"""The schedules: identities, closed forms, betas by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY, REORDER

from kdiff_jax.diffusion import grids, noise_levels, process

VP = {
    "cosine": process.cosine(),
    "linear": process.discrete(),
    "scaled_linear": process.discrete(
        schedule="scaled_linear", beta_min=0.00085, beta_max=0.012
    ),
    "squaredcos": process.discrete(schedule="squaredcos"),
}
ALL = {**VP, "edm": process.edm(), "flow": process.flow()}


def times(p, num=257):
    if p.num_timesteps:
        return jnp.arange(0.0, p.num_timesteps)
    return jnp.linspace(p.t_min, p.t_max, num)


@pytest.mark.parametrize("name", VP)
def test_variance_is_preserved(name):
    p = VP[name]
    t = times(p)
    np.testing.assert_allclose(p.alpha(t) ** 2 + p.sigma(t) ** 2, 1, **IDENTITY)


@pytest.mark.parametrize("name", ALL)
def test_logsnr_falls_with_time_and_is_that_of_alpha_and_sigma(name):
    p = ALL[name]
    t = times(p)
    logsnr = p.logsnr(t)
    assert np.all(np.diff(logsnr) < 0)
    if p.straight:  # at its ends alpha and sigma are 0, and logsnr stays finite
        np.testing.assert_allclose(logsnr[jnp.array([0, -1])], [33.27, -33.27], 1e-3)
        t, logsnr = t[1:-1], logsnr[1:-1]
    again = 2 * (jnp.log(p.alpha(t)) - jnp.log(p.sigma(t)))
    np.testing.assert_allclose(logsnr, again, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_time_of_logsnr_is_the_inverse(name):
    p = ALL[name]
    t = times(p, 33)
    again = p.time_of_logsnr(np.asarray(p.logsnr(t), np.float64))
    # 1e-5 of a unit of time, 1e-3 of an index: what float32 logsnr can tell.
    np.testing.assert_allclose(
        again, t, rtol=1e-5, atol=1e-5 * (p.t_max if p.num_timesteps else 1) / 5
    )


@pytest.mark.parametrize("name", ALL)
def test_uniform_training_times_lie_in_range(name):
    p = ALL[name]
    t = p.time(jnp.array([0.0, 0.3, 0.5, 0.9999999]))
    assert np.all((t >= p.t_min * (1 - 1e-6)) & (t <= p.t_max * (1 + 1e-6)))
    assert np.all(np.diff(t) > 0)


def test_cosine_has_the_papers_logsnr_in_double_precision():
    # logsnr = -2 log tan(a t + b); relative error of alpha and sigma at both ends
    t = np.array([0.0, 1e-3, 0.25, 0.5, 0.75, 0.999, 1.0])
    b = np.arctan(np.exp(-10.0))
    # the reference's float32 angle of t = 1, see `cosine`
    a = float(np.float32(np.arctan(np.exp(10.0)))) - b
    # float32 times are given, so that only the formula is judged
    t32 = t.astype(np.float32).astype(np.float64)
    p = process.cosine()
    args = jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(p.alpha(args), np.cos(a * t32 + b), rtol=1e-6)
    np.testing.assert_allclose(p.sigma(args), np.sin(a * t32 + b), rtol=1e-6)
    logsnr = -2 * np.log(np.tan(a * t32 + b))
    np.testing.assert_allclose(p.logsnr(args), logsnr, rtol=1e-6, atol=1e-4)
    ends = p.logsnr(args)[jnp.array([0, 6])]
    np.testing.assert_allclose(ends, [20, -20.001097], rtol=1e-6)
    np.testing.assert_allclose(p.alpha(args)[-1], np.exp(-10.000548649), rtol=1e-6)


def test_cosine_takes_other_ends():
    p = process.cosine(logsnr_min=-8.0, logsnr_max=12.0)
    np.testing.assert_allclose(p.logsnr(jnp.array([0.0, 1.0])), [12, -8], rtol=1e-5)


def test_discrete_tables_by_hand():
    # T = 3, beta = .1, .2, .3: abar = .9, .9 * .8 = .72, .72 * .7 = .504
    p = process.discrete(beta_min=0.1, beta_max=0.3, num_timesteps=3)
    t = jnp.array([-1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(p.alpha(t) ** 2, [1, 0.9, 0.72, 0.504], **IDENTITY)
    np.testing.assert_allclose(p.sigma(t) ** 2, [0, 0.1, 0.28, 0.496], **IDENTITY)
    assert p.sigma(t)[0] == 0 and p.alpha(t)[0] == 1
    np.testing.assert_array_equal(
        p.time(jnp.array([0.0, 0.34, 0.67, 1.0])), [0, 1, 2, 2]
    )


def test_betas_by_hand():
    linear = process.betas("linear", 1e-4, 0.02, 1000)
    assert linear[0] == 1e-4 and linear[-1] == 0.02
    np.testing.assert_allclose(linear[1] - linear[0], 0.0199 / 999)
    # sqrt(.01) = .1, sqrt(.04) = .2, so the middle one is .15^2
    np.testing.assert_allclose(
        process.betas("scaled_linear", 0.01, 0.04, 3), [0.01, 0.0225, 0.04]
    )
    # T = 2: f(u) = cos^2((u + .008) / 1.008 pi/2), beta_0 = 1 - f(1/2) / f(0)
    f = [np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 for u in (0, 0.5)]
    np.testing.assert_allclose(
        process.betas("squaredcos", 0.0, 0.0, 2), [1 - f[1] / f[0], 0.999]
    )


def test_smallest_sigma_is_exact():
    # sigma_0^2 = beta_0 = 1e-4; 1 - alpha^2 in float32 would be off by 6e-4
    sigma = process.discrete().sigma(jnp.array([0.0]))
    np.testing.assert_allclose(sigma, 0.01, rtol=2e-7)


def test_levels_between_indices_are_linear():
    p = process.discrete(beta_min=0.1, beta_max=0.3, num_timesteps=3)
    ratio = lambda t: p.sigma(jnp.array([t])) / p.alpha(jnp.array([t]))  # noqa: E731
    np.testing.assert_allclose(
        ratio(0.25), 0.75 * ratio(0.0) + 0.25 * ratio(1.0), **IDENTITY
    )


def test_flow_is_straight_from_noise_to_data():
    p = process.flow()
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 1))
    t = jnp.array([0.0, 0.25, 1.0])
    x_t = p.add_noise(x0, eps, t)
    by_hand = [x0[0], 0.75 * x0[1] + 0.25 * eps[1], eps[2]]
    np.testing.assert_allclose(x_t, jnp.stack(by_hand), **IDENTITY)
    # Euler's step along the velocity eps - x0 is the DDIM step.
    t, s = jnp.array([1.0, 0.5, 0.25]), jnp.array([0.5, 0.25, 0.0])
    moved = p.ddim_step(p.add_noise(x0, eps, t), x0, t, s)
    step = process.broadcast_left(s - t, x0) * (eps - x0)
    np.testing.assert_allclose(moved, p.add_noise(x0, eps, t) + step, **REORDER)
    short = process.flow(t_max=0.5)
    assert short.t_max == 0.5 and short.time(jnp.array(1.0)) == 0.5
    with pytest.raises(ValueError, match="t_max=0.0: must lie in .0, 1"):
        process.make("flow", t_max=0.0)


@pytest.mark.parametrize("name", ["scaled_linear", "edm", "flow"])
def test_level_and_scale_are_those_of_the_flow_s_equation(name):
    p = ALL[name]
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 1))
    t = times(p, 9)[jnp.array([8, 4, 2])]
    x = p.add_noise(x0, eps, t) / process.broadcast_left(p.scale(t), x0)
    slope = eps - x0 if p.straight else eps  # of x with the level, where x0_hat is x0
    found = (x - x0) / process.broadcast_left(p.level(t), x0)
    np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-4)


def test_edm_time_is_the_noise_level():
    p = process.edm()
    t = jnp.array([0.002, 1.0, 80.0])
    np.testing.assert_array_equal(p.sigma(t), t)
    np.testing.assert_array_equal(p.alpha(t), 1)
    np.testing.assert_allclose(
        p.time(jnp.array([0.0, 0.5, 1.0])), [0.002, 0.4, 80], rtol=1e-5
    )
    assert p.z_scale == 80


@pytest.mark.parametrize("name", ALL)
def test_a_ddim_step_with_the_true_x0_follows_the_noise(name):
    p = ALL[name]
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    t, s = times(p, 4)[jnp.array([3, 2, 1])], times(p, 4)[jnp.array([1, 2, 0])]
    moved = p.ddim_step(p.add_noise(x0, eps, t), x0, t, s)
    np.testing.assert_allclose(moved, p.add_noise(x0, eps, s), **REORDER)


@pytest.mark.parametrize("name, end", [("linear", -1.0), ("edm", 0.0)])
def test_a_ddim_step_to_the_data_is_exactly_x0_hat(name, end):
    p = ALL[name]
    x_t, x0_hat = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
    t = jnp.array([p.t_max, end])
    np.testing.assert_array_equal(p.ddim_step(x_t, x0_hat, t, jnp.full(2, end)), x0_hat)


def test_mistakes_are_told_in_one_line():
    with pytest.raises(ValueError, match="process='cos': unknown; choose one of"):
        process.make("cos")
    with pytest.raises(ValueError, match="schedule='sigmoid': unknown"):
        process.make("discrete", schedule="sigmoid")
    with pytest.raises(ValueError, match="sigma_min=9.0: must lie in"):
        process.make("edm", sigma_min=9.0, sigma_max=3.0)
    with pytest.raises(ValueError, match="logsnr_min=30.0: must lie below"):
        process.make("cosine", logsnr_min=30.0)
    assert set(process.names()) == {"cosine", "discrete", "edm", "flow"}


def test_times_of_a_network_with_few_levels_are_rounded():
    p = process.edm(num_levels=1000)
    u = noise_levels.iddpm_levels()[:-1]
    between = (u[500] + u[501]) / 2
    found = p.round_time(np.array([between * 1.0001, between * 0.9999, 0.0, 1e9]))
    np.testing.assert_array_equal(found, [u[500], u[501], u[999], u[0]])
    # generation starts at the level next to sigma_max, and so does the grid
    grid = grids.make(p, 18)
    assert p.z_scale == grid[0] == u[np.abs(u - 80).argmin()]
    assert set(grid[:-1]) <= set(u) and grid[-1] == 0
    assert process.edm().round_time(0.3) == 0.3
