"""Ancestral sampling, with a variance between the two of DDPM.

Ho et al. 2020, arXiv:2006.11239; Salimans & Ho 2022, arXiv:2202.00512, Eq. 3 to 5.
"""

import jax.numpy as jnp
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
    variance: Share = 1.0,
    clip: bool | Positive = False,
) -> Sampler:
    """Draws x_s ~ q(x_s | x_t, x0_hat) down the grid; the last step returns x0_hat.

    Args:
        process: Any forward process.
        num_steps: Denoiser calls.
        spacing: See `grids.make`; None for the process' own.
        offset: See `grids.make`.
        variance: 0 is the posterior's ("fixed_small"), 1 the forward step's
            ("fixed_large"), between them geometric ("fixed_medium").
        clip: Clips x0_hat to [-1, 1]; a number c clips it to [-c, c].

    Raises:
        ConfigError: If the process has no such grid of times, or `variance` is out of
            range.

    Source: Ho et al. 2020, arXiv:2006.11239, Algorithm 2; Salimans & Ho 2022,
    arXiv:2202.00512, Eq. 3 to 5, for continuous time.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> options = dict(num_steps=1000, variance=0.0)
        >>> sampler = samplers.make("ancestral", process=process.discrete(), **options)
        >>> samplers.asked_times(sampler)[:3].tolist()
        [999.0, 998.0, 997.0]
    """
    if not 0 <= variance <= 1:
        raise ConfigError(f"variance={variance}: must lie in [0, 1]; 1 is the largest")
    grid = grids.make(process, num_steps, spacing=spacing, offset=offset)

    def sample(denoise, z, y=None, *, keys=None, noise=None):
        draw = step_noise(keys, noise, z)

        def body(denoise, carry, now):
            x_t, _ = carry
            t, s, i = now
            t, s = jnp.full(len(z), t), jnp.full(len(z), s)
            x0_hat = denoise(x_t, t, y)
            if clip:
                x0_hat = jnp.clip(x0_hat, -clip, clip)
            x_s = step(process, x_t, x0_hat, t, s, draw(i), variance=variance)
            return x_s, x0_hat

        x = process.z_scale * z
        times = jnp.asarray(grid, z.dtype)
        over = (times[:-1], times[1:], jnp.arange(num_steps))
        _, x0_hat = scan_grid(body, (x, jnp.zeros_like(x)), over, grid[:-1], denoise)
        return x0_hat

    return Sampler(sample, nfe=num_steps, name="ancestral")


def step(
    process: Process,
    x_t: Float[Array, "B H W C"],
    x0_hat: Float[Array, "B H W C"],
    t: Float[Array, " B"],
    s: Float[Array, " B"],
    eps: Float[Array, "B H W C"],
    *,
    variance: Share,
) -> Float[Array, "B H W C"]:
    """One draw from t to s.

    r = exp(logsnr_t - logsnr_s),
    mean = r (alpha_s / alpha_t) x_t + (1 - r) alpha_s x0_hat,
    std^2 = ((1 - r) sigma_s^2)^(1 - v) ((1 - r) sigma_t^2)^v,  v = variance

    r alpha_s / alpha_t is written (sigma_s^2 / sigma_t^2) (alpha_t / alpha_s), which
    stays finite where alpha_t vanishes.

    Source: Salimans & Ho 2022, Eq. 3 to 5.
    """
    one_minus_r = -jnp.expm1(process.logsnr(t) - process.logsnr(s))
    alpha_t, alpha_s = process.alpha(t), process.alpha(s)
    sigma_t, sigma_s = process.sigma(t), process.sigma(s)
    keep = (sigma_s / sigma_t) ** 2 * alpha_t / alpha_s
    mean = (
        broadcast_left(keep, x_t) * x_t
        + broadcast_left(one_minus_r * alpha_s, x_t) * x0_hat
    )
    std = jnp.sqrt(one_minus_r) * sigma_s ** (1 - variance) * sigma_t**variance
    return mean + broadcast_left(std, x_t) * eps
