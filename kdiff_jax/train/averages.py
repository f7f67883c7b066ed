"""Decays of moving averages, from plain arguments."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from kdiff_jax import arguments
from kdiff_jax.arguments import Below1, Count, Positive
from kdiff_jax.errors import ConfigError
from kdiff_jax.train import posthoc

Decay = Callable[[Any], Any]


def make(
    *,
    batch_size: Count | None = None,
    decay: Below1 | None = None,
    half_life: Positive | None = None,
    ramp_up: Positive = 0.05,
    power: Positive | None = None,
) -> Decay:
    """The decay of one moving average at an update, by the number of updates before it.

    Updates and images are those of the role that is averaged: one that moves at every
    fifth step has seen a fifth of the images.

    Args:
        batch_size: Images of an update, which `half_life` needs.
        decay: Decay at each update.
        half_life: Half-life in images; at most `ramp_up` of the images so far.
        ramp_up: Share of the images so far (arXiv:2206.00364, Appendix F.2).
        power: Relative width of a power-function average, see `posthoc`.

    Raises:
        ConfigError: Unless one of `decay`, `half_life` and `power` is given, and
            `batch_size` with `half_life`.

    Example:
        averages.make(batch_size=512, half_life=500_000.0)(jnp.int32(1000))
    """
    arguments.check(make, locals(), what="a moving average")
    kinds = {"decay": decay, "half_life": half_life, "power": power}
    given = {name: value for name, value in kinds.items() if value is not None}
    if len(given) != 1:
        said = " and ".join(f"{name}={value}" for name, value in given.items())
        raise ConfigError(
            f"a moving average has {said or 'no decay'}; give one of decay, half_life"
            " and power"
        )
    if decay is not None:
        return lambda updates: jnp.float32(decay)
    if power is not None:
        exponent = posthoc.gamma(power) + 1
        return lambda updates: (1 - 1 / (jnp.float32(updates) + 1)) ** exponent
    assert half_life is not None
    if batch_size is None:
        raise ConfigError(
            f"half_life={half_life}: is counted in images; give batch_size, the images"
            " of an update, or decay in its place"
        )
    size, longest = batch_size, half_life

    def ramped(updates):
        seen = jnp.float32(updates) * size
        images = jnp.minimum(longest, ramp_up * seen)
        return 0.5 ** (size / jnp.maximum(images, 1e-8))

    return ramped
