"""Optimizers, learning-rate schedules and moving averages, from plain arguments."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from kdiff_jax import arguments, networks
from kdiff_jax.arguments import Below1, Count, NotNegative, Positive, Whole
from kdiff_jax.errors import ConfigError
from kdiff_jax.train import averages as decays
from kdiff_jax.train.state import Optim

SCHEDULES = ("constant", "linear", "cosine")
TAKEN = ("params", "ema", "best")  # what else `train.result` may name


def make(
    name: str = "adam",
    *,
    lr: Positive,
    batch_size: Count | None = None,
    b1: Below1 = 0.9,
    b2: Below1 = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.0,
    clip_norm: NotNegative | None = None,
    schedule: str = "constant",
    warmup_steps: Whole = 0,
    ema_decay: Below1 | None = None,
    ema_half_life: Positive | None = None,
    ema_ramp_up: Positive = 0.05,
    ema_power: Positive | None = None,
    averages: Mapping[str, Any] = {},
    zero_nonfinite: bool | None = None,
) -> Optim:
    """The update of one role: optimizer, learning rate and moving averages.

    Args:
        name: "adam" (decoupled weight decay, so AdamW when weight_decay > 0) or "sgd".
        lr: Learning rate after the warm-up.
        batch_size: Global; only half-lives need it, which are counted in images.
        b1, b2, eps: Constants of Adam.
        weight_decay: Decoupled, scaled by the learning rate; buffers are left alone.
        clip_norm: Largest norm of the gradient that is averaged over all devices.
        schedule: "constant", "linear" to 0 at the last step, or "cosine" to 0.
        warmup_steps: Length of the linear warm-up, lr * min(1, step / warmup_steps);
            the first update has lr 0. As in all schedules, steps are train steps,
            whether or not the role is updated in them.
        ema_decay: Decay of the moving average at each update of the role.
        ema_half_life: Half-life of the moving average, in images of the role's updates.
        ema_ramp_up: Largest half-life, as a share of the images so far.
        ema_power: Relative width of a power-function average, see `posthoc`. Without
            one of these three the role keeps no average called "ema".
        averages: Name -> keywords of `averages.make`, of further averages.
        zero_nonfinite: Whether entries of the gradient that are not finite count as 0,
            instead of ending the run; the log has their number, `nonfinite_grads`.

    Raises:
        ConfigError: If a name is unknown, or an average has two decays.

    Examples:
        >>> from kdiff_jax.train import optim
        >>> adam = optim.make(lr=1e-2, warmup_steps=10, ema_decay=0.99)
        >>> round(float(adam.lr(5, 100)), 4), list(adam.emas)
        (0.005, ['ema'])
    """
    arguments.check(make, locals(), what="an optimizer")
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"schedule={schedule!r}; choose one of {', '.join(SCHEDULES)}"
        )
    decay = (
        [optax.add_decayed_weights(weight_decay, mask=networks.trainable)]
        if weight_decay
        else []
    )
    # Of the place that clipping had here, older checkpoints have a trace.
    clip = [optax.identity()] if clip_norm else []
    if name == "adam":
        direction = [optax.scale_by_adam(b1, b2, eps)]
    elif name == "sgd":
        direction = [optax.identity()]
    else:
        raise ConfigError(f"optimizer name={name!r}; choose one of adam, sgd")
    emas = averages_of(
        batch_size, ema_decay, ema_half_life, ema_ramp_up, ema_power, averages
    )
    return Optim(
        optax.chain(*clip, *direction, *decay),
        _learning_rate(lr, schedule, warmup_steps),
        emas,
        clip_norm=clip_norm or None,
        zero_nonfinite=bool(zero_nonfinite),
    )


def _learning_rate(lr, schedule, warmup_steps) -> Callable:
    def rate(step, num_steps):
        step, done = jnp.float32(step), jnp.float32(step) / jnp.float32(num_steps)
        factor = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)),
        }[schedule]
        warm = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
        return lr * factor * warm

    return rate


def averages_of(
    batch_size: int | None,
    ema_decay: float | None,
    ema_half_life: float | None,
    ema_ramp_up: float,
    ema_power: float | None,
    more: Mapping[str, Mapping[str, Any]],
) -> dict[str, decays.Decay]:
    """Name -> decay, of the average "ema" and of others; {} without any.

    Raises:
        ConfigError: If one of them is none, or has a name of another thing.
    """
    found = dict(more)
    own = {"decay": ema_decay, "half_life": ema_half_life, "power": ema_power}
    if own := {name: value for name, value in own.items() if value is not None}:
        found = {"ema": own | {"ramp_up": ema_ramp_up}, **found}
    for name in more:
        if name in TAKEN or not name.isidentifier():
            raise ConfigError(
                f"averages.{name}: cannot be the name of an average; choose a word"
                f" other than {', '.join(TAKEN)}"
            )
    return {
        name: decays.make(batch_size=batch_size, **keywords)
        for name, keywords in found.items()
    }
