"""Denoisers in closed form: a Gaussian, and a mixture of two."""

import jax.numpy as jnp
import numpy as np

from kdiff_jax.diffusion.process import Process, broadcast_left

STD = 0.5
MEANS, SPREAD = np.array([-1.0, 1.0]), 0.3


def gaussian(process: Process, std: float = STD):
    """E[x0 | x_t] for pixels N(0, std^2)."""

    def denoise(x_t, t, y):
        del y
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * std**2 / ((alpha * std) ** 2 + sigma**2)
        return broadcast_left(gain, x_t) * x_t

    return denoise


def gaussian_flow(process: Process, z, t, std: float = STD):
    """Where the probability-flow ODE takes z from t_max, at time t; in closed form.

    x_t / sqrt((alpha std)^2 + sigma^2) is constant.
    """

    def norm(at):
        at = jnp.asarray(at, z.dtype)
        return jnp.hypot(process.alpha(at) * std, process.sigma(at))

    return process.z_scale * z * norm(t) / norm(process.t_max)


def mixture(process: Process):
    """E[x0 | x_t] for pixels of a mixture of N(-1, .3^2) and N(1, .3^2)."""

    def denoise(x_t, t, y):
        del y
        alpha, sigma = (
            broadcast_left(process.alpha(t), x_t),
            broadcast_left(process.sigma(t), x_t),
        )
        variance = (alpha * SPREAD) ** 2 + sigma**2
        # posterior weights of the two: odds exp(2 alpha x_t / variance)
        tanh = jnp.tanh(alpha * x_t / variance)
        return tanh + alpha * SPREAD**2 / variance * (x_t - alpha * tanh)

    return denoise
