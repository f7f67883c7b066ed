"""Noise levels that denoisers are trained at: a draw -> sigma, images in [-1, 1]."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from kdiff_jax import registry, rng
from kdiff_jax.errors import ConfigError

NAMES = ("process", "edm", "vp", "ve")


def make(name: str, process, **parameters) -> Callable:
    """(keys, t_range=None) -> t[B], the times of one training batch.

    With `t_range` = (lo, hi), which may be traced, it is the same distribution given
    that lo < t <= hi, drawn by inverting its cumulative function. An end of the process
    bounds nothing: (t_min, t_max) gives the draws of None bit for bit, and the first
    and last of several ranges have the tails beyond the ends. A range without a share
    of the distribution gives times at its border.

    Args:
        name: "process" is uniform in the process' own time; "edm", "vp" and "ve" are
            `lognormal`, `vp` and `loguniform` below, for processes whose time is sigma.
        process: A `Process`.
        **parameters: Keywords of the distribution: `P_mean` and `P_std` of "edm".

    Raises:
        ConfigError: If there is no such distribution, or the process has another time.

    Source: Karras et al. 2022, arXiv:2206.00364, Table 1.

    Examples:
        >>> import jax
        >>> from kdiff_jax.diffusion import noise_levels, process
        >>> draw = noise_levels.make("edm", process.edm(), P_mean=-1.2, P_std=1.2)
        >>> t = draw(jax.random.split(jax.random.key(0), 8), t_range=(0.5, 80.0))
        >>> t.shape, bool((t > 0.5).all())
        ((8,), True)
    """
    if name not in NAMES:
        raise registry.unknown("times", name, NAMES)
    if name != "process" and process.spacing != "karras":
        raise ConfigError(
            f"times={name!r}: draws noise levels, and this process has another time;"
            " take the process 'edm', or times='process'"
        )

    if name == "edm":
        times = _lognormal_times(**parameters)
    else:
        times = _uniform_times(name, process, **parameters)

    def draw(keys, t_range=None):
        if t_range is None:
            return times(keys, None)
        lo, hi = t_range[0], t_range[1]
        if process.num_timesteps:
            lo, hi = jnp.floor(lo), jnp.floor(hi)
        has_lo, has_hi = lo > process.t_min, hi < process.t_max
        t = times(keys, (lo, hi, has_lo, has_hi))
        # What rounding moves over a border comes back.
        after = lo + 1 if process.num_timesteps else jnp.nextafter(lo, jnp.inf)
        t = jnp.where(has_lo, jnp.maximum(t, after), t)
        return jnp.where(has_hi, jnp.minimum(t, hi), t)

    return draw


def _uniform_times(name, process, **parameters):
    """(keys, part) -> t, where part is None or (lo, hi, is lo a border, is hi one)."""
    time_of, cdf = {
        "process": (process.time, process.cdf),
        "vp": (vp, vp_cdf),
        "ve": (loguniform, loguniform_cdf),
    }[name]

    def times(keys, part):
        u = rng.uniform(keys, "t")
        if part is not None:
            lo, hi, has_lo, has_hi = part
            first = jnp.where(has_lo, jnp.clip(cdf(lo, **parameters), 0, 1), 0.0)
            last = jnp.where(has_hi, jnp.clip(cdf(hi, **parameters), 0, 1), 1.0)
            if name == "vp":
                first, last = 1 - last, 1 - first  # u = 0 is its noise end
            u = first + u * (last - first)
        return time_of(u, **parameters)

    return times


def _lognormal_times(**parameters):
    """As `_uniform_times`."""

    def times(keys, part):
        n = rng.normal(keys, "t", ())
        whole = lognormal(n, **parameters)
        if part is None:
            return whole
        inside = lognormal(_truncated(n, *part, **parameters), **parameters)
        return jnp.where(part[2] | part[3], inside, whole)

    return times


def _truncated(n, lo, hi, has_lo, has_hi, P_mean=-1.2, P_std=1.2):
    """n ~ N(0, 1) -> N(0, 1) given that the level lies between lo and hi."""
    a = jnp.where(has_lo, (jnp.log(lo) - P_mean) / P_std, -jnp.inf)
    b = jnp.where(has_hi, (jnp.log(hi) - P_mean) / P_std, jnp.inf)
    # In the lower half, where float32 can tell small shares apart.
    flip = has_lo & (~has_hi | (a + b > 0))
    a, b, m = (jnp.where(flip, -x, y) for x, y in ((b, a), (a, b), (n, n)))
    share = ndtr(a) + ndtr(m) * (ndtr(b) - ndtr(a))
    m = jnp.clip(ndtri(share), a, b)
    return jnp.where(flip, -m, m)


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


def vp_cdf(sigma, *, beta_d=19.9, beta_min=0.1, epsilon_t=1e-5):
    """The share of `vp` up to sigma; beyond the ends below 0 or above 1."""
    twice = 2 * jnp.log1p(sigma**2)
    # The usual form, sqrt(..) - beta_min over beta_d, cancels where sigma is small.
    t = twice / (jnp.sqrt(beta_min**2 + beta_d * twice) + beta_min)
    return (t - epsilon_t) / (1 - epsilon_t)


def loguniform(
    u: Float[Array, "*B"], *, sigma_min: float = 0.02, sigma_max: float = 100.0
) -> Float[Array, "*B"]:
    """sigma = sigma_min (sigma_max / sigma_min)^u, u ~ U[0, 1).

    Source: Karras et al. 2022, Table 1, column "VE" (the defaults).
    """
    return sigma_min * (sigma_max / sigma_min) ** u


def loguniform_cdf(sigma, *, sigma_min=0.02, sigma_max=100.0):
    """The share of `loguniform` up to sigma; beyond the ends below 0 or above 1."""
    return jnp.log(sigma / sigma_min) / np.log(sigma_max / sigma_min)


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
