"""Identities of the samplers: one step, exact denoisers, counts, random numbers."""

import analytic
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY, REORDER

from kdiff_jax import samplers
from kdiff_jax.diffusion import grids, process
from kdiff_jax.samplers import ancestral, ddim, renoise

PROCESSES = {name: process.make(name) for name in process.names()}
Z = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
Y = jnp.arange(3)
KEYS = jax.random.split(jax.random.key(1), 3)


def network(x_t, t, y):
    """Something that depends on all of its arguments."""
    return jnp.tanh(x_t + jnp.sin(t)[:, None, None, None]) + y[:, None, None, None]


def whole(name, family, num_steps):
    """A sampler whose last step is the network itself.

    That of Heun on straight paths is not, as SiT has it, unless told.
    """
    p = PROCESSES[family]
    keywords = dict(correct_last=False) if name == "heun" and p.straight else {}
    return samplers.make(name, process=p, num_steps=num_steps, **keywords)


@pytest.mark.parametrize("name", samplers.names())
@pytest.mark.parametrize("family", PROCESSES)
def test_one_step_is_the_network_itself(name, family):
    p = PROCESSES[family]
    x0 = whole(name, family, 1).sample(network, Z, Y, keys=KEYS)
    t_max = jnp.full(3, p.t_max)
    np.testing.assert_allclose(x0, network(p.z_scale * Z, t_max, Y), **IDENTITY)


@pytest.mark.parametrize("name", samplers.names())
@pytest.mark.parametrize("family", PROCESSES)
def test_a_denoiser_that_knows_x0_is_believed(name, family):
    target = jnp.cos(jnp.arange(Z.size, dtype=jnp.float32)).reshape(Z.shape)
    sampler = whole(name, family, 5)
    x0 = sampler.sample(lambda x_t, t, y: target, Z, Y, keys=KEYS)
    if name != "pndm":  # its last step goes along a mean of predictions
        np.testing.assert_array_equal(x0, target)
    elif family != "cosine":  # where it multiplies rounding by sigma / alpha = 22026
        np.testing.assert_allclose(x0, target, atol=1e-5 * PROCESSES[family].z_scale)


@pytest.mark.parametrize("name", samplers.names())
def test_nfe_is_the_number_of_network_calls(name):
    calls = []

    def spy(x_t, t, y):
        jax.debug.callback(lambda _: calls.append(1), t)
        return 0.5 * x_t

    sampler = samplers.make(name, process=PROCESSES["edm"], num_steps=4)
    sampler.sample(spy, Z, Y, keys=KEYS)
    jax.effects_barrier()
    assert len(calls) == sampler.nfe == {"heun": 7, "pndm": 5}.get(name, 4)
    assert sampler.name == name


@pytest.mark.parametrize("name", samplers.names())
def test_the_network_is_traced_once(name):
    traces = []

    def spy(x_t, t, y):
        traces.append(1)
        return 0.5 * x_t

    samplers.make(name, process=PROCESSES["cosine"], num_steps=4).sample(
        spy, Z, Y, keys=KEYS
    )
    # a scan may trace its body a second time to settle types, never per step
    assert len(traces) <= 2


@pytest.mark.parametrize(
    "name, keywords",
    [
        *(("ancestral", {}), ("ddim", {"eta": 0.7}), ("heun", {"S_churn": 5.0})),
        ("renoise", {}),
    ],
)
def test_noise_belongs_to_the_example(name, keywords):
    sampler = samplers.make(name, process=PROCESSES["edm"], num_steps=3, **keywords)
    whole = sampler.sample(network, Z, Y, keys=KEYS)
    part = sampler.sample(network, Z[1:], Y[1:], keys=KEYS[1:])
    np.testing.assert_allclose(part, whole[1:], **REORDER)
    other = sampler.sample(network, Z, Y, keys=KEYS[::-1])
    assert not np.allclose(other[0], whole[0])
    with pytest.raises(ValueError, match="keys=None: this sampler draws noise"):
        sampler.sample(network, Z, Y)


@pytest.mark.parametrize("family", PROCESSES)
def test_ddim_eta_one_draws_with_ddpms_posterior_variance(family):
    p = PROCESSES[family]
    grid = grids.make(p, 10)
    t, s = jnp.full(3, grid[4]), jnp.full(3, grid[5])
    x0_hat, eps = jax.random.normal(jax.random.key(2), (2, *Z.shape))
    one = ddim.step(p, Z, x0_hat, t, s, eps, eta=1.0)
    other = ancestral.step(p, Z, x0_hat, t, s, eps, variance=0.0)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_step_keeps_the_marginal_variance(eta):
    # exact x0_hat = x0: x_s - alpha_s x0 has variance sigma_s^2 whatever eta
    p = PROCESSES["cosine"]
    shape = (3, 64, 64, 4)
    x0, eps, fresh = jax.random.normal(jax.random.key(2), (3, *shape))
    t, s = jnp.array([0.9, 0.5, 0.2]), jnp.array([0.6, 0.4, 0.1])
    x_s = ddim.step(p, p.add_noise(x0, eps, t), x0, t, s, fresh, eta=eta)
    rest = x_s - process.broadcast_left(p.alpha(s), x0) * x0
    # relative error of a variance of 16384 numbers: sqrt(2 / 16384) = .011
    np.testing.assert_allclose(rest.var(axis=(1, 2, 3)), p.sigma(s) ** 2, rtol=0.05)


def test_ancestral_variances_by_hand():
    # beta = .1, .2, .3 (T = 3), from t = 2 to s = 1: abar .504, .72;
    # 1 - r = 1 - (.504/.496) / (.72/.28); fixed_large (1 - r) .496 = beta_2 = .3,
    # fixed_small (1 - r) .28 = .3 * .28 / .496
    p = process.discrete(beta_min=0.1, beta_max=0.3, num_timesteps=3)
    zero, one = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
    t, s = jnp.array([2.0]), jnp.array([1.0])
    small = 0.3 * 0.28 / 0.496
    for variance, expected in ((1.0, 0.3), (0.0, small), (0.5, (0.3 * small) ** 0.5)):
        std = ancestral.step(p, zero, zero, t, s, one, variance=variance)
        np.testing.assert_allclose(std**2, expected * one, rtol=1e-5)
    # mean: sqrt(.7) (1 - .72)/(1 - .504) x_t + sqrt(.72) .3/(1 - .504) x0
    keep = ancestral.step(p, one, zero, t, s, zero, variance=1.0)
    np.testing.assert_allclose(keep, 0.7**0.5 * 0.28 / 0.496 * one, rtol=1e-5)
    go = ancestral.step(p, zero, one, t, s, zero, variance=1.0)
    np.testing.assert_allclose(go, 0.72**0.5 * 0.3 / 0.496 * one, rtol=1e-5)


@pytest.mark.parametrize("family", PROCESSES)
def test_renoise_by_hand(family):
    p = PROCESSES[family]
    noise = jax.random.normal(jax.random.key(5), (4, *Z.shape))
    x0 = samplers.make("renoise", process=p, num_steps=4).sample(
        network, Z, Y, noise=lambda i: noise[i]
    )
    grid = renoise.times(p, 4)
    x_t = p.z_scale * Z
    for i in range(4):
        expected = network(x_t, jnp.full(3, grid[i]), Y)
        x_t = p.add_noise(expected, noise[i], jnp.full(3, grid[i + 1]))
    np.testing.assert_allclose(x0, expected, **REORDER)


def test_times_of_a_student_of_few_steps():
    four = {name: renoise.times(p, 4) for name, p in PROCESSES.items()}
    np.testing.assert_array_equal(four["discrete"], [999, 749, 499, 249, -1])
    np.testing.assert_allclose(four["cosine"], [1, 0.75, 0.5, 0.25, 0])
    # ((1 - u) 80^(1/7) + u .002^(1/7))^7 at u = 0, 250/999, 500/999, 750/999
    expected = [80.0, 17.498106, 2.503974, 0.1680835, 0.0]
    np.testing.assert_allclose(four["edm"], expected, rtol=1e-6)
    one = renoise.times(PROCESSES["edm"], 1)
    np.testing.assert_allclose(one, [80.0, 0.0], rtol=1e-12)


def test_a_student_may_start_at_another_level():
    edm, cosine = PROCESSES["edm"], PROCESSES["cosine"]
    assert renoise.start(edm) == (80.0, 80.0)
    np.testing.assert_allclose(renoise.start(edm, 2.5), (2.5, 2.5), rtol=1e-6)
    t, scale = renoise.start(cosine, 2.5)
    # tan(angle) = 2.5: sin(angle) = 2.5 / sqrt(1 + 2.5^2); the angle is nearly pi t / 2
    np.testing.assert_allclose(scale, 2.5 / np.sqrt(7.25), rtol=1e-5)
    np.testing.assert_allclose(t, np.arctan(2.5) * 2 / np.pi, rtol=1e-3)
    x0 = samplers.make("renoise", process=edm, num_steps=1, sigma_init=2.5).sample(
        network, Z, Y
    )
    np.testing.assert_allclose(x0, network(2.5 * Z, jnp.full(3, 2.5), Y), **REORDER)
    for p in PROCESSES.values():
        grid = renoise.times(p, 3, sigma_init=2.5)
        np.testing.assert_allclose(grid[0], renoise.start(p, 2.5)[0])
        assert (np.diff(grid) < 0).all() and len(grid) == 4
    with pytest.raises(ValueError, match="sigma_init=90.0: must lie in"):
        renoise.start(edm, 90.0)


def test_renoise_on_gaussian_data():
    """Of a teacher it averages: x0_hat has too little variance, by this much."""
    p = PROCESSES["edm"]
    z = jax.random.normal(jax.random.key(3), (64, 16, 16, 1))
    keys = jax.random.split(jax.random.key(4), 64)
    sampler = samplers.make("renoise", process=p, num_steps=2)
    # x0_hat = v x_t / (v + t^2) of N(0, v): its variance after the step at time t.
    t, v = renoise.times(p, 2)[1], 0.25
    x0 = sampler.sample(analytic.gaussian(p, std=0.5), z, keys=keys)
    first = v**2 / (v + 80.0**2)
    expected = (v / (v + t**2)) ** 2 * (first * 80.0**2 / (v + 80.0**2) + t**2)
    np.testing.assert_allclose(x0.var(), expected, rtol=0.05)


def test_duplicates_of_the_quadratic_grid_change_nothing():
    p = PROCESSES["discrete"]
    doubled = samplers.make("ddim", process=p, num_steps=100, spacing="quadratic")
    denoise = analytic.gaussian(p)
    grid = grids.subsequence(100, "quadratic")
    x = Z
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        if t != s:
            t, s = jnp.full(3, t), jnp.full(3, s)
            x = p.ddim_step(x, denoise(x, t, Y), t, s)
    np.testing.assert_allclose(doubled.sample(denoise, Z, Y), x, rtol=1e-4, atol=1e-5)


def test_clip_bounds_x0_and_its_eps():
    p = PROCESSES["cosine"]
    wild = lambda x_t, t, y: 3 * jnp.ones_like(x_t)  # noqa: E731
    tame = lambda x_t, t, y: jnp.ones_like(x_t)  # noqa: E731
    for name in ("ddim", "ancestral", "dpm_solver"):
        make = lambda clip, name=name: samplers.make(  # noqa: E731
            name, process=p, num_steps=3, clip=clip
        )
        np.testing.assert_array_equal(
            make(True).sample(wild, Z, Y, keys=KEYS),
            make(False).sample(tame, Z, Y, keys=KEYS),
        )


def test_euler_is_ddim_on_another_grid():
    p = PROCESSES["cosine"]
    euler = samplers.make("euler", process=p, num_steps=5, spacing="uniform")
    ddim_ = samplers.make("ddim", process=p, num_steps=5)
    np.testing.assert_array_equal(
        euler.sample(network, Z, Y), ddim_.sample(network, Z, Y)
    )


def test_heun_on_a_vp_process_is_heun_on_the_rescaled_one():
    """x / alpha at the levels sigma / alpha is EDM's ODE."""
    p = process.cosine(logsnr_min=-8.0, logsnr_max=8.0)
    q = process.edm(sigma_min=float(np.exp(-4.0)), sigma_max=float(np.exp(4.0)))
    vp = samplers.make("heun", process=p, num_steps=6)
    ve = samplers.make("heun", process=q, num_steps=6)
    # the VP process starts from z itself: x / alpha has deviation 1 / alpha
    scale = np.sqrt(1 + np.exp(-8.0))
    got = vp.sample(analytic.mixture(p), Z)
    np.testing.assert_allclose(
        got, ve.sample(analytic.mixture(q), scale * Z), rtol=1e-3, atol=1e-4
    )


def test_churn_stays_within_its_levels():
    """With noise that is allowed nowhere, churn changes nothing."""
    p = PROCESSES["edm"]
    plain = samplers.make("heun", process=p, num_steps=5)
    none = samplers.make("heun", process=p, num_steps=5, S_churn=40.0, S_min=1e3)
    np.testing.assert_array_equal(
        plain.sample(network, Z, Y), none.sample(network, Z, Y, keys=KEYS)
    )
    everywhere = [
        samplers.make("heun", process=p, num_steps=5, S_churn=40.0, S_max=S_max)
        for S_max in (None, 1e3)
    ]
    unlimited, above_all = (s.sample(network, Z, Y, keys=KEYS) for s in everywhere)
    np.testing.assert_array_equal(unlimited, above_all)
    assert not np.allclose(unlimited, plain.sample(network, Z, Y))


def test_mistakes():
    p = PROCESSES["cosine"]
    for call, text in (
        (lambda: samplers.make("plms", process=p), "sampler='plms': unknown; choose"),
        (lambda: samplers.make("ddim", process=p, num_steps=0), "num_steps=0: must"),
        (
            lambda: samplers.make("ddim", process=p, num_steps=2, eta=2.0),
            "eta=2.0: must",
        ),
        (
            lambda: samplers.make("ancestral", process=p, num_steps=2, variance=-1.0),
            "variance=-1.0: must",
        ),
        (
            lambda: samplers.make("renoise", process=p, num_steps=1001),
            "num_steps=1001: must be 1 to 1000",
        ),
        (
            lambda: samplers.make("heun", process=p, num_steps=2, S_churn=-1.0),
            "S_churn=-1.0: must",
        ),
    ):
        with pytest.raises(ValueError, match=text):
            call()
