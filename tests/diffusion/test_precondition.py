"""Preconditioning: unit variance, the published formulas, plain outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY, REORDER

from kdiff_jax.diffusion import precondition, predict, process

EDM = process.edm()
SIGMA = jnp.array([0.002, 0.1, 0.5, 3.0, 80.0])


@pytest.mark.parametrize(
    "p, t",
    [
        (EDM, SIGMA),
        (process.cosine(), jnp.array([0.0, 0.2, 0.5, 0.9, 1.0])),
        (process.discrete(), jnp.array([0.0, 10.0, 500.0, 999.0])),
    ],
)
def test_edm_gives_input_and_target_unit_variance(p, t):
    # data N(0, d^2): Var(c_in x_t) = c_in^2 (alpha^2 d^2 + sigma^2) = 1, and the target
    # F = (x0 - c_skip x_t) / c_out has variance
    # ((1 - c_skip alpha)^2 d^2 + c_skip^2 sigma^2) / c_out^2 = 1, the least possible
    d = 0.7
    c = precondition.make("edm", p, sigma_data=d)(t)
    alpha, sigma = p.alpha(t), p.sigma(t)
    np.testing.assert_allclose(c.c_in**2 * (alpha**2 * d**2 + sigma**2), 1, **REORDER)
    target = (1 - c.c_skip * alpha) ** 2 * d**2 + c.c_skip**2 * sigma**2
    np.testing.assert_allclose(target / c.c_out**2, 1, rtol=2e-4)
    np.testing.assert_allclose(
        c.c_noise, jnp.log(sigma / alpha) / 4, rtol=1e-4, atol=1e-5
    )


def test_edm_by_hand():
    # sigma = 1, d = .5: c_skip = .25/1.25, c_out = .5/sqrt(1.25), c_in = 1/sqrt(1.25)
    c = precondition.make("edm", EDM)(jnp.array([1.0]))
    np.testing.assert_allclose(
        jnp.stack(c[:4])[:, 0], [0.2, 0.5 / 1.25**0.5, 1.25**-0.5, 0], **IDENTITY
    )


def test_vp_inverts_its_own_noise_levels():
    # sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)
    t = np.array([1e-5, 1e-3, 0.1, 0.5, 1.0])
    sigma = np.sqrt(np.expm1(0.5 * 19.9 * t**2 + 0.1 * t))
    c = precondition.make("vp", EDM)(jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(c.c_noise, 999 * t, rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(c.c_skip, 1)
    np.testing.assert_allclose(c.c_out, -sigma, rtol=1e-6)
    np.testing.assert_allclose(c.c_in, 1 / np.sqrt(sigma**2 + 1), rtol=1e-6)


def test_ve():
    c = precondition.make("ve", EDM)(SIGMA)
    np.testing.assert_allclose(c.c_noise, np.log(SIGMA / 2), **IDENTITY)
    np.testing.assert_array_equal(c.c_out, SIGMA)
    np.testing.assert_array_equal(c.c_in, 1)


def test_boundary_is_the_identity_at_sigma_min():
    c = precondition.make("boundary", EDM)(jnp.array([0.002, 80.0]))
    np.testing.assert_allclose(c.c_skip, [1, 0.25 / (79.998**2 + 0.25)], rtol=1e-6)
    np.testing.assert_allclose(
        c.c_out, [0, 79.998 * 0.5 / np.sqrt(6400.25)], rtol=1e-6, atol=1e-9
    )
    same = precondition.make("edm", EDM)(jnp.array([0.002, 80.0]))
    np.testing.assert_allclose(c.c_in, same.c_in, rtol=1e-6)
    np.testing.assert_allclose(c.c_noise, same.c_noise, rtol=1e-6)


def test_iddpm_rounds_to_the_nearest_level():
    levels = precondition.iddpm_levels()
    assert levels[-1] == 0 and len(levels) == 1001 and np.all(np.diff(levels) < 0)
    # M - 1 - j at level j; a little above or below changes nothing
    j = np.array([0, 1, 500, 998, 999])
    for factor in (1.0, 1.0001, 0.9999):
        c = precondition.make("iddpm", EDM)(
            jnp.asarray(levels[j] * factor, jnp.float32)
        )
        np.testing.assert_array_equal(c.c_noise, 999 - j)
    # by hand: abar(j) = sin^2(pi j / (2 M 1.008)), u_{M-1}^2 = abar(M) / abar(M-1) - 1
    abar = lambda j: np.sin(np.pi * j / 2016) ** 2  # noqa: E731
    np.testing.assert_allclose(levels[999], np.sqrt(abar(1000) / abar(999) - 1))


@pytest.mark.parametrize("name", ["x", "eps", "v", "both"])
@pytest.mark.parametrize("p", [process.cosine(), process.discrete()])
def test_plain_outputs_give_back_x0(name, p):
    t = jnp.array([0.3, 0.7]) if p.num_timesteps is None else jnp.array([200.0, 600.0])
    x0, eps = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 3))
    x_t = p.add_noise(x0, eps, t)
    v = predict.v_from_eps(x_t, eps, alpha=p.alpha(t), sigma=p.sigma(t))
    output = dict(x=x0, eps=eps, v=v, both=jnp.concatenate([x0, eps], -1))[name]
    c = precondition.make(name, p)(t)
    np.testing.assert_allclose(
        precondition.combine(c, x_t, output), x0, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(c.c_in, 1)
    np.testing.assert_array_equal(c.c_noise, p.c_noise(t))


def test_residual_is_input_minus_output():
    x_t, output = jax.random.normal(jax.random.key(0), (2, 1, 4, 4, 3))
    c = precondition.make("residual", process.discrete())(jnp.array([999.0]))
    np.testing.assert_array_equal(precondition.combine(c, x_t, output), x_t - output)
    assert c.c_noise[0] == 999


def test_channels_that_nobody_asked_for_are_ignored():
    x_t, more = jax.random.normal(jax.random.key(0), (2, 1, 4, 4, 3))
    c = precondition.make("iddpm", EDM)(jnp.array([1.0]))
    wide = jnp.concatenate([x_t, more], axis=-1)
    np.testing.assert_array_equal(
        precondition.combine(c, x_t, wide), precondition.combine(c, x_t, x_t)
    )


def test_an_edm_wrapper_on_a_vp_process_is_the_same_denoiser():
    # D(x_t / alpha; sigma / alpha) by either process
    p = process.cosine()
    t = jnp.array([0.2, 0.6])
    ratio = p.sigma(t) / p.alpha(t)
    x_t = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    x_edm = x_t / process.broadcast_left(p.alpha(t), x_t)
    network = jnp.tanh
    for name in ("edm", "boundary", "vp", "ve", "iddpm"):
        results = []
        for q, x, at in ((p, x_t, t), (EDM, x_edm, ratio)):
            c = precondition.make(name, q)(at)
            output = network(process.broadcast_left(c.c_in, x) * x)
            results.append(precondition.combine(c, x, output))
        np.testing.assert_allclose(*results, **REORDER)


def test_unknown_name():
    with pytest.raises(ValueError, match="precondition='w': unknown; choose one of"):
        precondition.make("w", EDM)


def test_a_velocity_is_read_with_its_network_s_own_time():
    p = process.flow()
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 1))
    t = jnp.array([0.0, 0.25, 1.0])
    x_t = p.add_noise(x0, eps, t)
    for data_at, F, told in ((0, eps - x0, t), (1, x0 - eps, 1 - t)):
        c = precondition.make("velocity", p, data_at=data_at)(t)
        np.testing.assert_array_equal(c.c_noise, told)
        np.testing.assert_allclose(precondition.combine(c, x_t, F), x0, atol=1e-6)
    with pytest.raises(ValueError, match="is for the process 'flow'"):
        precondition.make("velocity", process.cosine())
    with pytest.raises(ValueError, match="data_at=2: choose one of 0, 1"):
        precondition.make("velocity", p, data_at=2)
