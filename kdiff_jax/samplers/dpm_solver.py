"""DPM-Solver++(2M): second order for one network evaluation a step.

Lu et al. 2022, arXiv:2211.01095, Algorithm 2.
"""

import jax.numpy as jnp

from kdiff_jax.arguments import Count, Positive, Whole
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import Process
from kdiff_jax.samplers import Sampler, scan_grid


def make(
    *,
    process: Process,
    num_steps: Count,
    spacing: str | None = None,
    offset: Whole = 0,
    rho: Positive = 7.0,
    clip: bool | Positive = False,
    end_at_data: bool = True,
) -> Sampler:
    """Extrapolates x0_hat from the last two steps, linearly in h = logsnr / 2.

    x_s = (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) D,
    D = x0_hat + (h / (2 h_before)) (x0_hat - x0_hat_before)

    The first step is of first order, and so is the last, which returns x0_hat; where
    it ends at t_min in place of the data it is so below 15 steps, as in diffusers.

    Args:
        process: Any forward process.
        num_steps: Denoiser calls; 1 is the network itself at t_max.
        spacing: See `grids.make`; None for the process' own, "dpm" for a discrete one.
        offset: See `grids.make`.
        rho: Curvature of the grid "karras".
        clip: Clips x0_hat to [-1, 1]; a number c clips it to [-c, c].
        end_at_data: The last step goes to the data; False: to the process' t_min.

    Raises:
        ConfigError: If the process has no such grid of times.

    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> options = dict(process=process.discrete(), num_steps=4)
        >>> sampler = samplers.make("dpm_solver", **options)
        >>> samplers.asked_times(sampler).tolist()
        [999.0, 749.0, 500.0, 250.0]
    """
    if spacing is None and process.num_timesteps is not None:
        spacing = "dpm"
    grid = grids.make(process, num_steps, spacing=spacing, rho=rho, offset=offset)
    if not end_at_data:
        grid[-1] = process.t_min

    def sample(denoise, z, y=None, *, keys=None, noise=None):
        del keys, noise  # deterministic

        times = jnp.asarray(grid, z.dtype)
        alpha, sigma = process.alpha(times), process.sigma(times)
        h = jnp.diff(process.logsnr(times)) / 2
        weight = jnp.append(0.0, h[1:] / (2 * h[:-1]))
        if end_at_data or num_steps < 15:
            weight = weight.at[-1].set(0)  # h may be infinite there

        def body(denoise, carry, now):
            x_t, before = carry
            x0_hat = denoise(x_t, jnp.full(len(z), now["t"]), y)
            if clip:
                x0_hat = jnp.clip(x0_hat, -clip, clip)
            slope = x0_hat + now["weight"] * (x0_hat - before)
            return now["keep"] * x_t + now["go"] * slope, x0_hat

        x = process.z_scale * z
        rows = dict(
            t=times[:-1],
            weight=weight,
            keep=sigma[1:] / sigma[:-1],
            go=-alpha[1:] * jnp.expm1(-h),
        )
        x_s, x0_hat = scan_grid(body, (x, jnp.zeros_like(x)), rows, grid[:-1], denoise)
        return x0_hat if end_at_data else x_s

    return Sampler(sample, nfe=num_steps, name="dpm_solver")
