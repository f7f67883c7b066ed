"""Predict x0, noise it afresh to the next time: how students of a few steps sample.

Multistep sampling of consistency models, Song et al. 2023, arXiv:2303.01469, Algorithm
1, and DMD2, Yin et al. 2024, arXiv:2405.14867, Section 4.4, whose training walks the
same path.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.arguments import Count, Positive
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import ConfigError
from kdiff_jax.samplers import Sampler, scan_grid, step_noise


def make(
    *,
    process: Process,
    num_steps: Count,
    spacing: str | None = None,
    sigma_init: Positive | None = None,
) -> Sampler:
    """Nothing of x_t is kept from step to step but x0_hat.

    One step is the network itself at its first time: the one-step student. The times
    are even in the index of a grid of 1000, or of all of a discrete process.

    Args:
        process: Any forward process.
        num_steps: Denoiser calls.
        spacing: Spacing of the fine grid, see `grids.make`; None for the process' own.
        sigma_init: sigma / alpha of the noise that is started from, as in SiD; None
            starts at t_max.

    Raises:
        ConfigError: If the grid has fewer times, or the process does not reach that
            level.

    Source: Song et al. 2023, arXiv:2303.01469, Algorithm 1; Yin et al. 2024,
    arXiv:2405.14867, Section 4.4 and released code, for the times.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> sampler = samplers.make("renoise", process=process.discrete(), num_steps=4)
        >>> samplers.asked_times(sampler).tolist()
        [999.0, 749.0, 499.0, 249.0]
    """
    grid = times(process, num_steps, spacing=spacing, sigma_init=sigma_init)
    _, scale = start(process, sigma_init)

    def sample(denoise, z, y=None, *, keys=None, noise=None):
        if num_steps > 1:
            draw = step_noise(keys, noise, z)
        else:
            draw = lambda i: jnp.zeros_like(z)  # noqa: E731

        def body(denoise, carry, now):
            x_t, _ = carry
            return _move(lambda x_t, t: denoise(x_t, t, y), x_t, now, draw, process)

        x = scale * z
        rows = _rows(grid, x)
        _, x0_hat = scan_grid(body, (x, jnp.zeros_like(x)), rows, grid[:-1], denoise)
        return x0_hat

    return Sampler(sample, nfe=num_steps, name="renoise")


def start(process: Process, sigma_init: float | None = None) -> tuple[float, float]:
    """(t, scale): where a student starts, from scale * z.

    At t_max; or, as SiD, where sigma / alpha = sigma_init, from noise of that size
    alone: scale = sigma(t), sigma_init itself in EDM's process.

    Raises:
        ConfigError: If the process does not reach that level.

    Source: Zhou et al. 2024, arXiv:2404.04057, Algorithm 1, for EDM's process.
    """
    if sigma_init is None:
        return process.t_max, process.z_scale
    ends = np.array([process.t_min, process.t_max])
    low, high = np.exp(-0.5 * np.asarray(process.logsnr(jnp.asarray(ends))))
    if not low < sigma_init <= high:
        raise ConfigError(
            f"sigma_init={sigma_init}: must lie in ({low:.3g}, {high:.3g}], the levels"
            " of this process"
        )
    t = float(process.round_time(process.time_of_logsnr(-2 * np.log(sigma_init))))
    return t, float(process.sigma(jnp.float32(t)))


def times(
    process: Process,
    num_steps: Count,
    *,
    spacing: str | None = None,
    sigma_init: Positive | None = None,
):
    """N + 1 decreasing times, even in the index of a fine grid, ending at the data.

    The fine grid has T = 1000 times (those of a discrete process, all) and every T / N
    -th is taken, from t_max: 999, 749, 499, 249 of DDPM, as DMD2 has them; 80, 17.5,
    2.5, 0.17 of EDM, whose own grid of four steps would spend the last one at 0.002.

    Args:
        process: Any forward process.
        num_steps: N.
        spacing: Spacing of the fine grid, see `grids.make`; None for the process' own.
        sigma_init: See `start`; of the fine grid, only later times are kept.

    Source: arXiv:2405.14867, released code.
    """
    fine = grids.make(process, process.num_timesteps or 1000, spacing=spacing)
    if sigma_init is not None:
        first, _ = start(process, sigma_init)
        fine = np.append(first, fine[fine < first])
    num_times = len(fine) - 1
    if not 1 <= num_steps <= num_times:
        raise ConfigError(f"num_steps={num_steps}: must be 1 to {num_times}")
    return fine[np.arange(num_steps + 1) * num_times // num_steps]


def path(denoise, x, times, draw, *, process: Process):
    """(x_t, x0_hat) of the moves down `times`: x_t f32[N + 1, B, H, W, C], x0_hat [N].

    Args:
        denoise: (x_t, t[B]) -> x0_hat.
        x: x_t at the first time.
        times: N + 1 decreasing times; at the last one nothing is denoised.
        draw: i -> the noise of move i, N(0, 1), f32[B, H, W, C].
        process: Forward process that adds the noise.
    """

    def body(x_t, now):
        x_s, x0_hat = _move(denoise, x_t, now, draw, process)
        return x_s, (x_t, x0_hat)

    last, (x_t, x0_hat) = jax.lax.scan(body, x, _rows(times, x))
    return jnp.concatenate([x_t, last[None]]), x0_hat


def _rows(times, x):
    """(t, s, i) of every move, of x's type."""
    times = jnp.asarray(times, x.dtype)
    return times[:-1], times[1:], jnp.arange(len(times) - 1)


def _move(denoise, x_t, row, draw, process: Process):
    """(x_s, x0_hat): predicts x0 and noises it to the next time."""
    t, s, i = row
    x0_hat = denoise(x_t, jnp.full(len(x_t), t))
    return process.add_noise(x0_hat, draw(i), jnp.full(len(x_t), s)), x0_hat
