"""Heun's method on the probability-flow ODE, with EDM's optional stochasticity.

Karras et al. 2022, arXiv:2206.00364, Algorithms 1 and 2. A variance-preserving process
is integrated as x / alpha with the noise level sigma / alpha, a straight one as x in t.
"""

from typing import Annotated

import jax.numpy as jnp
import numpy as np

from kdiff_jax.arguments import Count, NotNegative, Positive, Range
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import ConfigError
from kdiff_jax.samplers import Sampler, scan_grid, step_noise

# The velocity at t = 0 does not show in x0_hat = x_t there. It is that of the next time
# where rounding, some 1e-7 / t, is as small as the way: t = 2^-12 is good to 3e-4 of a
# velocity, of which half a last step is added.
AT_DATA = 2.0**-12


def make(
    *,
    process: Process,
    num_steps: Count,
    spacing: str | None = None,
    rho: Positive = 7.0,
    S_churn: NotNegative = 0.0,
    S_min: NotNegative = 0.0,
    S_max: Annotated[float, Range(0, high_open=False)] | None = None,
    S_noise: Positive = 1.0,
    correct_last: bool | None = None,
) -> Sampler:
    """EDM's sampler: 2 N - 1 network evaluations for N steps.

    Step from level s to s': raise s to s^ = s (1 + gamma) by fresh noise, gamma =
    min(S_churn / N, sqrt(2) - 1) for s in [S_min, S_max]; then, with d(x, s) = (x -
    D(x; s)) / s, go x' = x + (s' - s^) d(x, s^) and correct it to x + (s' - s^)
    (d(x, s^) + d(x', s')) / 2, except on the last step, which returns D. Where paths
    are straight s is the time, and d the velocity.

    Args:
        process: Any forward process.
        num_steps: N; 1 is the network itself at t_max.
        spacing: See `grids.make`; None for "karras", or for the even times of `flow`.
        rho: Curvature of the grid "karras".
        S_churn: 0 is deterministic; the paper's ImageNet-64 runs take 40 in 256 steps.
        S_min: Least level that noise is added at, in units of the data.
        S_max: Largest such level; None, which JSON has and infinity is not, for no end.
        S_noise: Standard deviation of that noise.
        correct_last: Whether the last step is corrected as well, as in SiT: 2 N
            evaluations. That is for networks that predict a velocity, the only ones
            whose d is good at the data, and for straight paths; None: there, yes.

    Raises:
        ConfigError: If the process has no such grid of times, `S_churn` is negative or
            of straight paths, or `correct_last` is asked of others.

    Source: Karras et al. 2022, arXiv:2206.00364, Algorithms 1 and 2.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> sampler = samplers.make("heun", process=process.edm(), num_steps=3)
        >>> samplers.asked_times(sampler).round(3).tolist()
        [80.0, 2.515, 2.515, 0.002, 0.002]
    """
    if S_churn < 0:
        raise ConfigError(f"S_churn={S_churn}: must not be negative; 0 turns it off")
    if S_churn and process.straight:
        raise ConfigError(f"S_churn={S_churn}: is not for straight paths; leave it 0")
    if correct_last and not process.straight:
        raise ConfigError("correct_last=True: is for the process 'flow'; leave it out")
    to_data = process.straight if correct_last is None else correct_last
    spacing = spacing or (None if process.straight else "karras")
    grid = grids.make(process, num_steps, spacing=spacing, rho=rho)
    clean = np.asarray(grids.levels(process, grid), np.float64)
    if process.spacing == "karras" or process.straight:
        clean = grid  # time is the level, known in float64
    below = np.inf if S_max is None else S_max
    churned = (S_min <= clean) & (clean <= below) & (clean > 0)
    gamma = np.where(churned, min(S_churn / num_steps, np.sqrt(2) - 1), 0.0)
    raised = clean * (1 + gamma)
    with np.errstate(divide="ignore"):
        raised_grid = process.time_of_logsnr(-2 * np.log(raised))
    raised_grid = np.where(gamma > 0, process.round_time(raised_grid), grid)
    if process.spacing == "karras":
        raised = raised_grid  # rounded, where the network knows few levels
    spread = S_noise * np.sqrt(raised**2 - clean**2)

    # One walk over evaluations, not steps, so that the network is compiled once. The
    # even ones predict from the raised level, the odd ones correct at the next level.
    evaluation = np.arange(2 * num_steps - (not to_data), dtype=np.int32)
    i, correct = evaluation // 2, evaluation % 2 == 1
    floor = AT_DATA if to_data else -np.inf
    over = dict(
        correct=correct,
        t=np.where(correct, np.maximum(grid[i + 1], floor), raised_grid[i]),
        level=np.where(correct, np.maximum(clean[i + 1], floor), raised[i]),
        move=clean[i + 1] - raised[i],
        spread=spread[i + 1],
        step=i + 1,
    )

    def sample(denoise, z, y=None, *, keys=None, noise=None):
        draw = step_noise(keys, noise, z) if S_churn else lambda i: jnp.zeros_like(z)

        def body(denoise, carry, now):
            x, start, first, _ = carry
            t = jnp.full(len(z), now["t"])
            x0_hat = denoise(process.scale(t[0]) * x, t, y)
            slope = (x - x0_hat) / now["level"]
            predicted = x + now["move"] * slope
            corrected = start + now["move"] * (first + slope) / 2
            corrected += now["spread"] * draw(now["step"])
            moved = jnp.where(now["correct"], corrected, predicted)
            return moved, x, slope, x0_hat

        x = process.z_scale * z / process.scale(jnp.asarray(grid[0], z.dtype))
        x += spread[0] * draw(0)
        rows = {
            name: jnp.asarray(row, z.dtype if row.dtype == np.float64 else row.dtype)
            for name, row in over.items()
        }
        zero = jnp.zeros_like(x)
        x, *_, x0_hat = scan_grid(body, (x, zero, zero, zero), rows, over["t"], denoise)
        return x if to_data else x0_hat

    return Sampler(sample, nfe=len(evaluation), name="heun")
