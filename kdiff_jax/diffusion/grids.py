"""Time grids of samplers, made on the host in float64.

A grid of N steps has N + 1 decreasing times; step i goes from grid[i] to grid[i + 1].
The last time is the data: 0, or -1 for a discrete process.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdiff_jax import rng
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import ConfigError


def uniform(num_steps: int, *, t_max: float = 1.0) -> np.ndarray:
    """t_max i / N for i = N .. 0; contains t_max, so that training may match N(0, I).

    Source: Salimans & Ho 2022, arXiv:2202.00512, Section 2.
    """
    _check(num_steps)
    return t_max * np.arange(num_steps, -1, -1) / num_steps


def karras(
    num_steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> np.ndarray:
    """Noise levels of EDM, dense near the data, ending at exactly 0.

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    Args:
        num_steps: N; 1 gives [sigma_max, 0].
        sigma_min: Last level before 0, in units of the data (images in [-1, 1]).
        sigma_max: First level.
        rho: Curvature. 1 is uniform in sigma.

    Source: Karras et al. 2022, arXiv:2206.00364, Eq. 5.

    Examples:
        >>> from kdiff_jax.diffusion.grids import karras
        >>> karras(3, sigma_min=1.0, sigma_max=100.0, rho=2.0).round(2).tolist()
        [100.0, 30.25, 1.0, 0.0]
    """
    _check(num_steps)
    ramp = np.arange(num_steps) / max(num_steps - 1, 1)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append((first + ramp * (last - first)) ** rho, 0.0)


def uniform_logsnr(
    num_steps: int, *, logsnr_min: float, logsnr_max: float
) -> np.ndarray:
    """Noise levels sigma / alpha = exp(-logsnr / 2), even in logsnr, ending at 0."""
    _check(num_steps)
    logsnr = np.linspace(logsnr_min, logsnr_max, num_steps)
    return np.append(np.exp(-0.5 * logsnr), 0.0)


def subsequence(
    num_steps: int,
    spacing: str = "linear",
    *,
    num_timesteps: int = 1000,
    offset: int = 0,
) -> np.ndarray:
    """Indices of a discrete process, decreasing, ending at -1 (the data).

    - linear: 0, T//N, 2 (T//N), ... (Song et al. 2021; Luhman & Luhman 2021)
    - quadratic: int(linspace(0, sqrt(0.8 T), N)^2). The largest index is 0.8 T,
      although generation starts from z ~ N(0, I), and small indices repeat: a step
      between equal indices is the identity. Both as the authors have it.
    - leading, trailing, linspace: as in diffusers' schedulers.
    - dpm, dpm_leading: linspace and leading of N + 1 without their 0, as diffusers'
      DPM-Solver has them.
    - fractional: linspace not rounded, as diffusers' Euler has it.

    One linear or quadratic step is the one-step student: [T - 1, -1]. The formulas
    above would give index 0, where there is no noise to remove.

    Args:
        num_steps: N.
        spacing: One of the names above.
        num_timesteps: T.
        offset: Added to all times but the last.

    Returns:
        f64[N + 1].

    Raises:
        ConfigError: If there is no such spacing, or the times are not the process'.

    Examples:
        >>> from kdiff_jax.diffusion import grids
        >>> grids.subsequence(4, "leading", offset=1).tolist()
        [751.0, 501.0, 251.0, 1.0, -1.0]
    """
    _check(num_steps)
    T = num_timesteps
    if num_steps > T:
        raise ConfigError(
            f"num_steps={num_steps}: a discrete process has {T} times;"
            f" take at most {T} steps"
        )
    if spacing in ("linear", "quadratic") and num_steps == 1:
        times = np.array([T - 1])
    elif spacing in ("linear", "leading"):
        times = np.arange(num_steps) * (T // num_steps)
    elif spacing == "quadratic":
        times = (np.linspace(0, np.sqrt(0.8 * T), num_steps) ** 2).astype(np.int64)
    elif spacing == "trailing":
        # The slice, because rounding may give one time more, near 0.
        times = np.round(np.arange(T, 0, -T / num_steps)[:num_steps])[::-1] - 1
    elif spacing == "linspace":
        times = np.round(np.linspace(0, T - 1, num_steps))
    elif spacing == "dpm":
        times = np.round(np.linspace(0, T - 1, num_steps + 1))[1:]
    elif spacing == "dpm_leading":
        times = np.arange(1, num_steps + 1) * (T // (num_steps + 1))
    elif spacing == "fractional":
        times = np.linspace(0, T - 1, num_steps)
    else:
        raise ConfigError(
            f"spacing={spacing!r}: unknown for a discrete process; choose linear,"
            " quadratic, leading, trailing, linspace, dpm, dpm_leading, fractional,"
            " karras or uniform_logsnr"
        )
    if times[-1] + offset > T - 1:
        raise ConfigError(
            f"offset={offset}: {num_steps} steps would start at {times[-1] + offset:g},"
            f" and the last time is {T - 1}; take fewer steps"
        )
    return np.append(times[::-1] + offset, -1).astype(np.float64)


def make(
    process: Process,
    num_steps: int,
    *,
    spacing: str | None = None,
    rho: float = 7.0,
    offset: int = 0,
) -> np.ndarray:
    """The grid of `process` with N steps: N + 1 times of its own, float64.

    Args:
        process: Any forward process. All take "karras" and "uniform_logsnr", which are
            even in a function of sigma / alpha between t_max and t_min; a discrete one
            also takes the spacings of `subsequence`, one with t in [0, 1] also
            "uniform".
        num_steps: N, the denoiser calls of a first-order sampler.
        spacing: None for the process' own.
        rho: Curvature of "karras".
        offset: Added to the times of the spacings of `subsequence`.

    Raises:
        ConfigError: If the process has no such spacing, or not so many times.

    Examples:
        >>> from kdiff_jax.diffusion import grids, process
        >>> grids.make(process.cosine(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> grids.make(process.discrete(), 4, spacing="trailing").tolist()
        [999.0, 749.0, 499.0, 249.0, -1.0]
    """
    spacing = spacing or process.spacing
    if spacing in ("karras", "uniform_logsnr"):
        ends = np.array([process.t_max, process.t_min])
        logsnr = np.asarray(process.logsnr(jnp.asarray(ends)), np.float64)
        if process.spacing == "karras":
            logsnr = -2 * np.log(ends)  # in float64: here the time is the level
        if spacing == "karras":
            sigma_max, sigma_min = np.exp(-0.5 * logsnr)
            sigma = karras(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
        else:
            sigma = uniform_logsnr(
                num_steps, logsnr_min=logsnr[0], logsnr_max=logsnr[1]
            )
        grid = process.time_of_logsnr(-2 * np.log(sigma[:-1]))
        # Rounding must not leave the range that the network was trained on.
        grid = process.round_time(np.clip(grid, process.t_min, process.t_max))
        return np.append(grid, -1.0 if process.num_timesteps else 0.0)
    if process.num_timesteps is not None:
        return subsequence(
            num_steps, spacing, num_timesteps=process.num_timesteps, offset=offset
        )
    if spacing == "uniform" and process.spacing == "uniform":
        return uniform(num_steps, t_max=process.t_max)
    raise ConfigError(
        f"spacing={spacing!r}: does not fit this process; leave it out to use"
        f" {process.spacing!r}"
    )


def draw_from(
    process: Process,
    *,
    low: float = 0.0,
    high: float = 1.0,
    spacing: str | None = None,
) -> Callable[..., Any]:
    """Training times out of a grid: (keys, name) -> t, f32[B], uniform in its index.

    The grid has T = 1000 times (those of a discrete process, all), in ascending order:
    index 0 is the data end. Drawn are the indices low T .. min(high T, T - 1).

    Args:
        process: Forward process that defines the time.
        low, high: Range of the grid that is drawn from, as fractions of its length;
            0 <= low < high <= 1.
        spacing: See `make`; None for the process' own.

    Source: Yin et al. 2024, arXiv:2311.18828 and arXiv:2405.14867, released code.
    """
    if not 0 <= low < high <= 1:
        raise ConfigError(f"low={low}, high={high}: must be 0 <= low < high <= 1")
    num_times = process.num_timesteps or 1000
    times = make(process, num_times, spacing=spacing)[-2::-1]
    times = times[round(low * num_times) : round(high * num_times) + 1]

    def draw(keys, name):
        return jnp.asarray(times, jnp.float32)[rng.randint(keys, name, len(times))]

    return draw


def levels(process: Process, grid: np.ndarray, dtype=jnp.float32):
    """`Process.level` at the times of a grid, ending at exactly 0.

    A truncated schedule ends above 0; samplers go the whole way, to x0_hat.
    """
    return jnp.append(process.level(jnp.asarray(grid[:-1], dtype)), 0)


def _check(num_steps: int) -> None:
    if num_steps < 1:
        raise ConfigError(f"num_steps={num_steps}: must be at least 1")
