"""Classifier-free guidance: a denoiser made from a denoiser."""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax import rng
from kdiff_jax.arguments import NotNegative, Range
from kdiff_jax.diffusion.process import Process, broadcast_left
from kdiff_jax.domain import Cond, null
from kdiff_jax.errors import ConfigError
from kdiff_jax.types import Denoise, Keys

Levels = Sequence[float | int]  # (low, high)
Scale = float | int | jax.Array  # of all examples, or f32[B]
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
    return jax.tree.map(
        lambda n, c: jnp.where(broadcast_left(dropped, c), n, c), null(y), y
    )


def check_null_prob(prob: float, num_classes: int) -> None:
    """Refuses to drop the labels of a network without.

    Raises:
        ConfigError: Names the value.
    """
    if prob and not num_classes:
        raise ConfigError(
            f"null_prob={prob}: a network without classes has no labels to drop; set 0"
        )


def is_none(scale: Scale) -> bool:
    """Whether this is no guidance, 1 for all examples."""
    return isinstance(scale, (float, int)) and scale == 1


def drawn(
    keys: Keys, levels: Levels | None, scale: float | int
) -> tuple[dict[str, Array], Scale]:
    """(what a student is told, the scale of its teacher), of one example each.

    Args:
        keys: Key[B].
        levels: (low, high), between which a student that reads it is told a strength,
            drawn uniformly; None for a student that does not.
        scale: What the teacher's is for such a student.

    Source: Meng et al. 2023, arXiv:2210.03142, section 3.1, whose w is ours less 1.
    """
    if levels is None:
        return {}, scale
    low, high = levels
    w = low + (high - low) * rng.uniform(keys, "guidance")
    return {"guidance": w}, w


def check_told(scale: Scale, levels: Levels, interval: Levels | None = None) -> None:
    """Refuses a strength that a network which reads it was not made for.

    Raises:
        ConfigError: Names the value.
    """
    low, high = levels
    ends = np.float32(low), np.float32(high)  # as a strength that was one is, too
    if isinstance(scale, (float, int)) and not ends[0] <= np.float32(scale) <= ends[1]:
        raise ConfigError(
            f"guidance={scale:g}: this network reads its guidance, and was trained for"
            f" {low:g} to {high:g}; choose one of these"
        )
    if interval is not None:
        raise ConfigError(
            f"guidance_interval={tuple(interval)}: this network reads its guidance, at"
            " the levels of its training; leave it out"
        )


def guide(
    denoise: Denoise,
    scale: Scale,
    *,
    process: Process | None = None,
    interval: Levels | None = None,
    channels: int | None = None,
    skip: bool = False,
) -> Denoise:
    """x0_hat = x0_hat(null) + scale (x0_hat(y) - x0_hat(null)).

    Because x0, eps and v are linear in each other, this is guidance of eps and v too.

    Args:
        denoise: (x_t, t, y, **keywords) -> x0_hat; knows the null condition. Keywords
            are trees of one entry per example.
        scale: 1 is `denoise` itself, bit for bit; more follows the label more closely,
            0 ignores it. One for all examples, or f32[B].
        process: Forward process; only read with an interval.
        interval: See `within`; at other levels the scale is 1. None for all levels.
        channels: How many channels are guided, the first ones; the others are the
            labelled prediction's. None for all.
        skip: Evaluates `denoise` once, not twice, where no example of the batch lies
            in the interval: for samplers, whose examples share one time.

    Source: Ho & Salimans 2022, arXiv:2207.12598, Eq. 6 (with scale = 1 + w); the
    interval of Kynkaanniemi et al. 2024, arXiv:2404.07724.

    Examples:
        A denoiser whose answer is the label, -1 where there is none:

        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import guidance
        >>> def denoise(x_t, t, y):
        ...     return jnp.zeros_like(x_t) + y[:, None, None, None]
        >>> guided = guidance.guide(denoise, 3.0)
        >>> float(guided(jnp.zeros((1, 2, 2, 3)), jnp.ones(1), jnp.array([1])).max())
        5.0
    """
    if is_none(scale):
        return denoise

    def guided(x_t, t, y, **keywords):
        # One call on twice the images, so that the network is compiled once; a pair
        # lies side by side, so that it stays on the device of its example.
        pair = jax.tree.map(_side_by_side, y, null(y))
        x_t, t, keywords = jax.tree.map(_twice, (x_t, t, keywords))
        both = denoise(x_t, t, pair, **keywords)
        both = both.reshape(-1, 2, *both.shape[1:])
        return mix(both[:, 0], both[:, 1], t[::2], scale, process, interval, channels)

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
    scale: Scale,
    process: Process | None = None,
    interval: Levels | None = None,
    channels: int | None = None,
) -> Float[Array, "B ..."]:
    """The guided prediction of both branches; for the arguments see `guide`."""
    scale = broadcast_left(scale, free) if jnp.ndim(scale) else scale
    guided = free + scale * (labelled - free)
    if channels is not None:
        if channels > free.shape[-1]:
            raise ConfigError(
                f"guidance_channels={channels}: images have {free.shape[-1]}; take at"
                " most as many"
            )
        parts = guided[..., :channels], labelled[..., channels:]
        guided = jnp.concatenate(parts, axis=-1)
    if interval is None:
        return guided
    return jnp.where(
        broadcast_left(within(t, process, interval), guided), guided, labelled
    )


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
