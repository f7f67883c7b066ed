"""PLMS: linear multistep of fourth order, Stable Diffusion's first sampler.

Liu et al. 2022, arXiv:2202.09778, without the Runge-Kutta steps at the start, as
`PNDMScheduler` of diffusers has it with skip_prk_steps.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from kdiff_jax.arguments import Count, Positive, Whole
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import Process, broadcast_left
from kdiff_jax.errors import ConfigError
from kdiff_jax.samplers import Sampler, scan_grid

# Adams-Bashforth of even steps, by how many predictions there are; the newest first.
WEIGHTS = np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


def make(
    *,
    process: Process,
    num_steps: Count,
    spacing: str | None = None,
    offset: Whole = 0,
    rho: Positive = 7.0,
    even: bool = False,
    end_at_data: bool = True,
    averages: Literal["eps", "v"] = "eps",
) -> Sampler:
    """Steps along a weighted mean of the last four predictions of the noise.

    x_s = (alpha_s / alpha_t) x_t + (sigma_s - alpha_s sigma_t / alpha_t) eps'

    The first step is Euler's; at the time that it leads to the network is asked twice,
    and the first answer corrects that step, with the mean of both: N + 1 evaluations.
    The weights are those of even steps, whatever the grid. Where paths are straight,
    velocity and time are in the place of the noise and sigma / alpha.

    Args:
        process: Any forward process.
        num_steps: N; 1 is Euler's step.
        spacing: See `grids.make`; None for the process' own.
        offset: See `grids.make`.
        rho: Curvature of the grid "karras".
        even: Every step of a discrete process goes T // N back, as diffusers' does,
            also where the network is asked at another time next.
        end_at_data: The last step goes to the data; False: to the process' t_min.
        averages: Prediction that is averaged: the noise, or v = alpha eps - sigma x0,
            which diffusers takes of networks that predict it.

    Raises:
        ConfigError: If the process has no such grid of times, `averages` is "v" of
            straight paths, or `even` is asked of a process in continuous time.

    Source: Liu et al. 2022, arXiv:2202.09778, Eq. 12 and Algorithm 2; diffusers.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> options = dict(num_steps=4, spacing="leading", offset=1)
        >>> sampler = samplers.make("pndm", process=process.discrete(), **options)
        >>> samplers.asked_times(sampler).tolist()
        [751.0, 501.0, 501.0, 251.0, 1.0]
    """
    if averages == "v" and process.straight:
        raise ConfigError("averages='v': is not for straight paths; leave it out")
    grid = grids.make(process, num_steps, spacing=spacing, rho=rho, offset=offset)
    end = grid[-1] if end_at_data else process.t_min
    goals, stride = np.append(grid[1:-1], end), None
    if even:
        if process.num_timesteps is None:
            raise ConfigError("even=True: is for a discrete process; leave it out")
        stride = process.num_timesteps // num_steps
        goals = np.where(grid[:-1] < stride, end, grid[:-1] - stride)
    asked, starts, goals, weights = _plan(grid[:-1], goals, stride)
    again = np.arange(len(asked)) == (1 if num_steps > 1 else -1)

    def sample(denoise, z, y=None, *, keys=None, noise=None):
        del keys, noise  # deterministic

        def at(times):
            t = jnp.asarray(times, z.dtype)
            both = process.scale(t), process.level(t)
            return both if averages == "eps" else (*both, process.sigma(t))

        rows = dict(
            t=jnp.asarray(asked, z.dtype),
            here=at(asked),
            start=at(starts),
            goal=at(goals)[:2],
            weights=jnp.asarray(weights, z.dtype),
            again=jnp.asarray(again),
        )

        def body(denoise, carry, now):
            x, before, _, last = carry
            x0_hat = denoise(x, jnp.full(len(z), now["t"]), y)
            scale, level, *sigma = now["here"]
            slope = answer = (x - scale * x0_hat) / (scale * level)
            if averages == "v":
                answer = (scale * x - x0_hat) / sigma[0]
            found = jnp.concatenate([answer[None], last])
            mean = (broadcast_left(now["weights"], found) * found).sum(0)
            x = jnp.where(now["again"], before, x)  # from where the step begins
            scale, level_of_start, *sigma = now["start"]
            if averages == "v":
                mean = scale * mean + sigma[0] * x
            # The image that the mean leads to; the second form loses no digit.
            led_to = jnp.where(
                now["again"],
                x / scale - level_of_start * mean,
                x0_hat + level * (slope - mean),
            )
            scale, level = now["goal"]
            # An answer that corrects is not kept: the time is asked again.
            last = jnp.where(now["again"], last, found[:3])
            return scale * (led_to + level * mean), x, led_to, last

        x = process.z_scale * z
        nothing = jnp.zeros((3, *z.shape), z.dtype)
        x, _, led_to, _ = scan_grid(body, (x, x, x, nothing), rows, asked, denoise)
        # At the data this is the image also where sigma there is not quite 0.
        return led_to if goals[-1] == grid[-1] else x

    return Sampler(sample, nfe=len(asked), name="pndm")


def _plan(times: np.ndarray, goals: np.ndarray, stride: int | None):
    """(times asked at, starts and goals of the steps, weights), one of each call.

    Args:
        times: f64[N], those of the grid but the last.
        goals: f64[N], where the steps from them go.
        stride: Steps of a discrete process, where they are even: that which is
            corrected begins so much before its goal, also if it did not begin there.
    """
    if len(times) == 1:
        return times, times, goals, WEIGHTS[:1]
    first = times[0] if stride is None else times[1] + stride
    steps = np.minimum(np.arange(len(times)), 3)
    corrects = np.array([1 / 2, 1 / 2, 0, 0])
    return (
        np.insert(times, 1, times[1]),
        np.insert(times, 1, first),
        np.insert(goals, 1, times[1]),
        np.insert(WEIGHTS[steps], 1, corrects, axis=0),
    )
