"""Noise levels that denoisers are trained at: a draw -> sigma, images in [-1, 1]."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax import rng
from kdiff_jax.errors import ConfigError

NAMES = ("process", "edm", "vp", "ve")


def make(name: str, process, **parameters) -> Callable:
    """keys -> t[B], the times of one training batch.

    Args:
        name: "process" is uniform in the process' own time; "edm", "vp" and "ve" are
            `lognormal`, `vp` and `loguniform` below, for processes whose time is sigma.
        process: A `Process`.
        parameters: Keywords of the distribution.
    """
    if name == "process":
        return lambda keys: process.time(rng.uniform(keys, "t"))
    if name not in NAMES:
        raise ConfigError(f"times={name!r}: unknown; choose one of {NAMES}")
    if process.spacing != "karras":
        raise ConfigError(
            f"times={name!r}: draws noise levels, and this process has another time;"
            " take the process 'edm', or times='process'"
        )
    level_of = {"edm": lognormal, "vp": vp, "ve": loguniform}[name]
    level_of = functools.partial(level_of, **parameters)
    if name == "edm":
        return lambda keys: level_of(rng.normal(keys, "t", ()))
    return lambda keys: level_of(rng.uniform(keys, "t"))


def lognormal(
    n: Float[Array, "*B"], *, P_mean: float = -1.2, P_std: float = 1.2
) -> Float[Array, "*B"]:
    """log(sigma) = P_mean + P_std n, n ~ N(0, 1).

    Source: Karras et al. 2022, arXiv:2206.00364, Table 1, column "Ours".
    """
    return jnp.exp(P_mean + P_std * n)


def vp(
    u: Float[Array, "*B"],
    *,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    epsilon_t: float = 1e-5,
) -> Float[Array, "*B"]:
    """sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t = 1 + u (epsilon_t - 1).

    Args:
        u: U[0, 1); 0 is the noise end, as in the reference code.
        beta_d: Slope of the linear schedule.
        beta_min: Its start.
        epsilon_t: The smallest time.

    Source: Karras et al. 2022, Table 1, column "VP".
    """
    t = 1 + u * (epsilon_t - 1)
    return jnp.sqrt(jnp.expm1(0.5 * beta_d * t**2 + beta_min * t))


def loguniform(
    u: Float[Array, "*B"], *, sigma_min: float = 0.02, sigma_max: float = 100.0
) -> Float[Array, "*B"]:
    """sigma = sigma_min (sigma_max / sigma_min)^u, u ~ U[0, 1).

    Source: Karras et al. 2022, Table 1, column "VE" (the defaults).
    """
    return sigma_min * (sigma_max / sigma_min) ** u


def iddpm_levels(
    *, C_1: float = 0.001, C_2: float = 0.008, num_timesteps: int = 1000
) -> np.ndarray:
    """The M + 1 decreasing noise levels u_0 .. u_M = 0 of improved DDPM, float64.

    u_{j-1} = sqrt((u_j^2 + 1) / max(abar(j-1) / abar(j), C_1) - 1)

    Source: Karras et al. 2022, Table 1, column "iDDPM".
    """
    j = np.arange(num_timesteps + 1)
    abar = np.sin(0.5 * np.pi * j / num_timesteps / (C_2 + 1)) ** 2
    levels = np.zeros(num_timesteps + 1)
    for i in range(num_timesteps, 0, -1):
        ratio = max(abar[i - 1] / abar[i], C_1)
        levels[i - 1] = np.sqrt((levels[i] ** 2 + 1) / ratio - 1)
    return levels
