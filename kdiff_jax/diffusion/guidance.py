"""Classifier-free guidance: a denoiser made from a denoiser."""

import jax.numpy as jnp

from kdiff_jax.types import Denoise


def guide(denoise: Denoise, scale: float) -> Denoise:
    """x0_hat = x0_hat(no label) + scale (x0_hat(y) - x0_hat(no label)).

    Args:
        denoise: Knows y = -1 as "no label".
        scale: 1 is the denoiser itself; more follows the label more closely.

    Source: Ho & Salimans 2022, arXiv:2207.12598, Eq. 6 (with scale = 1 + w).
    """

    def guided(x_t, t, y):
        # One call on twice the images, so that the network is compiled once.
        twice = [
            jnp.concatenate(pair) for pair in ((x_t, x_t), (t, t), (y, -1 + 0 * y))
        ]
        labelled, free = jnp.split(denoise(*twice), 2)
        return free + scale * (labelled - free)

    return guided
