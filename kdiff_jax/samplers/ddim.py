"""DDIM: the deterministic sampler, and its one-parameter family of stochastic ones.

Song et al. 2021, arXiv:2010.02502; in continuous time Salimans & Ho 2022.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax.arguments import Count, Positive, Share, Whole
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import Process, broadcast_left
from kdiff_jax.errors import ConfigError
from kdiff_jax.samplers import Sampler, scan_grid, step_noise


def make(
    *,
    process: Process,
    num_steps: Count,
    spacing: str | None = None,
    offset: Whole = 0,
    eta: Share = 0.0,
    clip: bool | Positive = False,
    clip_eps: bool = True,
    rho: Positive = 7.0,
    start_at_sigma: bool = False,
    end_at_data: bool = True,
    even: bool = False,
) -> Sampler:
    """DDIM on a grid of the process' own time.

    One step is the network itself at t_max: the one-step student.

    Args:
        process: Any forward process; with `edm` this is Euler's method in sigma.
        num_steps: Denoiser calls.
        spacing: See `grids.make`; None for the process' own.
        offset: See `grids.make`.
        eta: 0 is deterministic, 1 draws with the variance of DDPM's posterior.
        clip: Clips x0_hat to [-1, 1]; a number c clips it to [-c, c].
        clip_eps: Moves along the eps of the clipped x0_hat, as Progressive Distillation
            does; False keeps the network's own eps, as diffusers does.
        rho: Curvature of the grid "karras".
        start_at_sigma: Starts with noise of the size that the first time has, as
            diffusers' Euler does, in place of the process' `z_scale`.
        end_at_data: The last step goes to the data; False: to the process' t_min.
        even: Every step of a discrete process goes T // N back, as diffusers' DDIM
            does, also where the network is asked at another time next.

    Raises:
        ConfigError: If the process has no such grid of times, `eta` is out of range, or
            `even` is asked of a process in continuous time.

    Source: Song et al. 2021, arXiv:2010.02502, Eq. 12 and 16.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> options = dict(num_steps=4, spacing="leading", eta=1.0)
        >>> sampler = samplers.make("ddim", process=process.discrete(), **options)
        >>> samplers.asked_times(sampler).tolist()
        [750.0, 500.0, 250.0, 0.0]
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta={eta}: must lie in [0, 1]; 0 is deterministic")
    grid = grids.make(process, num_steps, spacing=spacing, rho=rho, offset=offset)
    end = grid[-1] if end_at_data else process.t_min
    goals = np.append(grid[1:-1], end)
    if even:
        if process.num_timesteps is None:
            raise ConfigError("even=True: is for a discrete process; leave it out")
        stride = process.num_timesteps // num_steps
        goals = np.where(grid[:-1] < stride, end, grid[:-1] - stride)
    to_data = goals[-1] == grid[-1]

    def sample(denoise, z, y=None, *, keys=None, noise=None):
        draw = step_noise(keys, noise, z) if eta else lambda i: jnp.zeros_like(z)

        def body(denoise, carry, now):
            x_t, _ = carry
            t, s, i = now
            t, s = jnp.full(len(z), t), jnp.full(len(z), s)
            x0_hat = x0_eps = denoise(x_t, t, y)
            if clip:
                x0_hat = jnp.clip(x0_hat, -clip, clip)
                x0_eps = x0_hat if clip_eps else x0_eps
            x_s = step(process, x_t, x0_hat, t, s, draw(i), eta=eta, x0_eps=x0_eps)
            return x_s, x0_hat

        times = jnp.asarray(grid[:-1], z.dtype)
        x = (process.sigma(times[0]) if start_at_sigma else process.z_scale) * z
        over = (times, jnp.asarray(goals, z.dtype), jnp.arange(num_steps))
        x_s, x0_hat = scan_grid(body, (x, jnp.zeros_like(x)), over, grid[:-1], denoise)
        # At the data this is x0_hat also where sigma there is not quite 0.
        return x0_hat if to_data else x_s

    return Sampler(sample, nfe=num_steps, name="ddim")


def step(
    process: Process,
    x_t: Float[Array, "B H W C"],
    x0_hat: Float[Array, "B H W C"],
    t: Float[Array, " B"],
    s: Float[Array, " B"],
    eps: Float[Array, "B H W C"],
    *,
    eta: Share,
    x0_eps: Float[Array, "B H W C"] | None = None,
) -> Float[Array, "B H W C"]:
    """One step with fresh noise; eps_hat is that of `x0_eps`, x0_hat when None.

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - c^2) eps_hat + c eps,
    c^2 = eta^2 sigma_s^2 (1 - exp(logsnr_t - logsnr_s))

    c is the paper's eta sqrt((1 - abar_t / abar_s) (1 - abar_s) / (1 - abar_t)), in a
    form without cancellation.

    Source: Song et al. 2021, Eq. 12 and 16.
    """
    variance = -(eta**2) * jnp.expm1(process.logsnr(t) - process.logsnr(s))
    sigma_s, sigma_t = process.sigma(s), process.sigma(t)
    keep = sigma_s * jnp.sqrt(1 - variance) / sigma_t
    rest = x_t - broadcast_left(process.alpha(t), x_t) * (
        x0_hat if x0_eps is None else x0_eps
    )
    x_s = (
        broadcast_left(process.alpha(s), x_t) * x0_hat
        + broadcast_left(keep, x_t) * rest
    )
    return x_s + broadcast_left(sigma_s * jnp.sqrt(variance), x_t) * eps
