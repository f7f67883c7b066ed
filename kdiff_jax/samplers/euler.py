"""Euler's method on the probability-flow ODE in the noise level sigma / alpha.

On one grid this is DDIM: x / alpha moves along (x_t - alpha x0_hat) / sigma. What is
Euler's own is the grid, even in the level's rho-th root, or in a straight path's time.
"""

from kdiff_jax.arguments import Count, Positive, Whole
from kdiff_jax.diffusion.process import Process
from kdiff_jax.samplers import Sampler, ddim


def make(
    *,
    process: Process,
    num_steps: Count,
    spacing: str | None = None,
    offset: Whole = 0,
    rho: Positive = 7.0,
    start_at_sigma: bool = False,
) -> Sampler:
    """Euler's method; one step is the network itself at t_max.

    Args:
        process: Any forward process.
        num_steps: Denoiser calls.
        spacing: See `grids.make`; None for "karras", or for the even times of `flow`.
        offset: See `grids.make`.
        rho: Curvature of the grid "karras".
        start_at_sigma: See `ddim.make`.

    Raises:
        ConfigError: If the process has no such grid of times.

    Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 1 without the correction.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> sampler = samplers.make("euler", process=process.edm(), num_steps=3)
        >>> samplers.asked_times(sampler).round(3).tolist()
        [80.0, 2.515, 0.002]
    """
    sampler = ddim.make(
        process=process,
        num_steps=num_steps,
        spacing=spacing or (None if process.straight else "karras"),
        offset=offset,
        rho=rho,
        start_at_sigma=start_at_sigma,
    )
    return sampler._replace(name="euler")
