"""Classifier-free guidance by hand, and its identity."""

import jax.numpy as jnp
import numpy as np

from kdiff_jax.diffusion import guidance


def denoise(x_t, t, y):
    # 10 without a label, its label otherwise
    value = jnp.where(y < 0, 10.0, y.astype(jnp.float32)) * t
    return x_t + value[:, None, None, None]


def test_scale_one_is_the_denoiser_itself_and_three_goes_beyond():
    x_t, t, y = jnp.zeros((2, 1, 1, 1)), jnp.ones(2), jnp.array([1, 12])
    np.testing.assert_array_equal(
        guidance.guide(denoise, 1.0)(x_t, t, y), denoise(x_t, t, y)
    )
    # 10 + 3 (1 - 10) = -17, 10 + 3 (12 - 10) = 16
    guided = guidance.guide(denoise, 3.0)(x_t, t, y)
    np.testing.assert_array_equal(guided.ravel(), [-17, 16])
