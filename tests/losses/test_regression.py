"""Weights and reductions by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY, REORDER

from kdiff_jax.diffusion import predict, process
from kdiff_jax.losses import regression


@pytest.mark.parametrize(
    "name, expected",
    [
        # SNR = 1/4 and 9; d = .5, 1/d^2 = 4
        ("constant", [1, 1]),
        ("snr", [0.25, 9]),
        ("snr_trunc", [1, 9]),
        ("v_mse", [1.25, 10]),
        ("edm", [4.25, 13]),
        ("inverse_variance", [0.25, 9]),
    ],
)
def test_weights_by_hand(name, expected):
    logsnr = jnp.log(jnp.array([0.25, 9.0]))
    np.testing.assert_allclose(regression.weight(name, logsnr), expected, **IDENTITY)


def test_edm_weight_is_the_papers():
    sigma = jnp.array([0.01, 0.5, 20.0])
    got = regression.weight("edm", process.edm().logsnr(sigma), sigma_data=0.7)
    np.testing.assert_allclose(got, (sigma**2 + 0.49) / (0.7 * sigma) ** 2, rtol=1e-5)
    got = regression.weight("inverse_variance", process.edm().logsnr(sigma))
    np.testing.assert_allclose(got, 1 / sigma**2, rtol=1e-5)


def test_weights_are_finite_over_the_whole_schedule():
    logsnr = jnp.array([-20.0, 20.0])
    for name in regression.WEIGHTS:
        weight = regression.weight(name, logsnr)
        assert np.all(np.isfinite(weight)) and np.all(weight > 0)
    np.testing.assert_allclose(regression.weight("v_mse", logsnr)[0], 1, **IDENTITY)


@pytest.mark.parametrize("name, space", [("snr", "eps"), ("v_mse", "v")])
def test_weighted_x0_error_is_the_error_of_the_other_output(name, space):
    p = process.cosine()
    t = jnp.array([0.2, 0.5, 0.9])
    rng = np.random.default_rng(0)
    x0, x0_hat, eps = jnp.asarray(rng.standard_normal((3, 3, 4, 4, 2)), jnp.float32)
    x_t = p.add_noise(x0, eps, t)
    arrow = getattr(predict, f"{space}_from_x0")
    factors = dict(alpha=p.alpha(t), sigma=p.sigma(t))
    other = regression.mse_per_example(
        arrow(x_t, x0_hat, **factors), arrow(x_t, x0, **factors)
    )
    weighted = regression.weight(name, p.logsnr(t)) * regression.mse_per_example(
        x0_hat, x0
    )
    np.testing.assert_allclose(weighted, other, **REORDER)


def test_reductions_by_hand():
    x = jnp.array([1.0, -2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 4.0]).reshape(2, 2, 2, 1)
    zero = jnp.zeros_like(x)
    np.testing.assert_allclose(regression.mse_per_example(x, zero), [14 / 4, 4])
    np.testing.assert_allclose(regression.l1_sum_per_example(x, zero), [6, 4])
    np.testing.assert_allclose(regression.l2_sum_per_example(x, zero), [14, 16])


def test_unknown_weight():
    with pytest.raises(ValueError, match="weight='snr2': unknown; choose one of"):
        regression.weight("snr2", jnp.zeros(1))
