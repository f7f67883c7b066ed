"""Classifier-free guidance: a denoiser made from a denoiser."""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import rng
from kdiff_jax.arguments import NotNegative, Range
from kdiff_jax.diffusion.process import Process, left
from kdiff_jax.domain import Cond, null
from kdiff_jax.errors import ConfigError
from kdiff_jax.types import Denoise, Keys

Levels = Sequence[float | int]  # (low, high)
# The same as a keyword of a recipe, with its range.
Interval = tuple[NotNegative, Annotated[float, Range(0, low_open=True)]]


def drop(keys: Keys, y: Cond, prob: float) -> Cond:
    """Conditions, each replaced by the null condition with probability `prob`.

    So a network learns both branches of guidance.

    Source: Ho & Salimans 2022, arXiv:2207.12598, Algorithm 1.
    """
    if not prob:
        return y
    dropped = rng.bernoulli(keys, "null", prob)
    return jax.tree.map(lambda n, c: jnp.where(left(dropped, c), n, c), null(y), y)


def check_null_prob(prob: float, num_classes: int) -> None:
    """Refuses to drop the labels of a network without.

    Raises:
        ConfigError: Names the value.
    """
    if prob and not num_classes:
        raise ConfigError(
            f"null_prob={prob}: a network without classes has no labels to drop; set 0"
        )


def guide(
    denoise: Denoise,
    scale: float | int,
    *,
    process: Process | None = None,
    interval: Levels | None = None,
    skip: bool = False,
) -> Denoise:
    """x0_hat = x0_hat(null) + scale (x0_hat(y) - x0_hat(null)).

    Because x0, eps and v are linear in each other, this is guidance of eps and v too.

    Args:
        denoise: (x_t, t, y, **keywords) -> x0_hat; knows the null condition. Keywords
            are trees of one entry per example.
        scale: 1 is `denoise` itself, bit for bit; more follows the label more closely,
            0 ignores it.
        process: Forward process; only read with an interval.
        interval: See `within`; at other levels the scale is 1. None for all levels.
        skip: Evaluates `denoise` once, not twice, where no example of the batch lies
            in the interval: for samplers, whose examples share one time.

    Source: Ho & Salimans 2022, arXiv:2207.12598, Eq. 6 (with scale = 1 + w); the
        interval of Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """
    if scale == 1:
        return denoise

    def guided(x_t, t, y, **keywords):
        # One call on twice the images, so that the network is compiled once; a pair
        # lies side by side, so that it stays on the device of its example.
        pair = jax.tree.map(_side_by_side, y, null(y))
        x_t, t, keywords = jax.tree.map(_twice, (x_t, t, keywords))
        both = denoise(x_t, t, pair, **keywords)
        both = both.reshape(-1, 2, *both.shape[1:])
        return mix(both[:, 0], both[:, 1], t[::2], scale, process, interval)

    if not skip or interval is None:
        return guided

    def where_needed(x_t, t, y):
        inside = within(t, process, interval).any()
        return jax.lax.cond(inside, guided, denoise, x_t, t, y)

    return where_needed


def mix(
    labelled: Float[Array, "B ..."],
    free: Float[Array, "B ..."],
    t: Float[Array, " B"],
    scale: float | int,
    process: Process | None = None,
    interval: Levels | None = None,
) -> Float[Array, "B ..."]:
    """The guided prediction of both branches; for the arguments see `guide`."""
    guided = free + scale * (labelled - free)
    if interval is None:
        return guided
    return jnp.where(left(within(t, process, interval), guided), guided, labelled)


def within(t: Float[Array, " B"], process: Process | None, interval: Levels):
    """bool[B]: low < sigma / alpha <= high, the noise level in units of the data.

    In EDM's process that is the time itself.

    Raises:
        ConfigError: If the interval is empty.
    """
    assert process is not None, "an interval is one of the process' levels"
    low, high = interval
    if not low < high:
        raise ConfigError(
            f"guidance_interval={tuple(interval)}: must be (low, high) with low < high"
        )
    level = jnp.exp(-0.5 * process.logsnr(t))
    return (low < level) & (level <= high)


def _side_by_side(a, b):
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _twice(x):
    return jnp.repeat(x, 2, axis=0)
