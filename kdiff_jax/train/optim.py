"""Optimizers, learning-rate schedules and moving averages, from plain arguments."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from kdiff_jax import arguments, models
from kdiff_jax.arguments import Below1, Count, NotNegative, Positive, Whole
from kdiff_jax.errors import ConfigError
from kdiff_jax.train.step import Optim

SCHEDULES = ("constant", "linear", "cosine")


def make(
    name: str = "adam",
    *,
    lr: Positive,
    batch_size: Count,
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
    zero_nonfinite: bool | None = None,
    steps_per_update: Positive = 1.0,
) -> Optim:
    """Builds the update of one role.

    Args:
        name: "adam" (decoupled weight decay, so AdamW when weight_decay > 0) or "sgd".
        lr: Learning rate after the warm-up.
        batch_size: Global; the half-life is counted in images.
        b1, b2, eps: Of Adam.
        weight_decay: Decoupled, scaled by the learning rate; buffers are left alone.
        clip_norm: Largest norm of the gradient that is averaged over all devices.
        schedule: "constant", "linear" to 0 at the last step, or "cosine" to 0.
        warmup_steps: Length of the linear warm-up, lr * min(1, step / warmup_steps);
            the first update has lr 0. As in all schedules, steps are train steps,
            whether or not the role is updated in them.
        ema_decay: Decay of the moving average at each update of the role.
        ema_half_life: Half-life of the moving average, in images of all train steps; at
            most `ema_ramp_up` of the images seen so far. Without it and `ema_decay`,
            the role keeps no average.
        ema_ramp_up: Part of the images seen (arXiv:2206.00364, Appendix F.2).
        zero_nonfinite: Whether entries of the gradient that are not finite count as 0,
            instead of ending the run; the log has their number, `nonfinite_grads`.
        steps_per_update: Train steps from one update of the role to the next.

    Raises:
        ConfigError: If a name is unknown, or both kinds of average are asked for.
    """
    arguments.check(make, locals(), what="an optimizer")
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"schedule={schedule!r}; choose one of {', '.join(SCHEDULES)}"
        )
    if ema_decay is not None and ema_half_life is not None:
        raise ConfigError(
            f"ema_decay={ema_decay} and ema_half_life={ema_half_life}; give one of them"
        )
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    decay = (
        [optax.add_decayed_weights(weight_decay, mask=models.trainable)]
        if weight_decay
        else []
    )
    if name == "adam":
        direction = [optax.scale_by_adam(b1, b2, eps)]
    elif name == "sgd":
        direction = [optax.identity()]
    else:
        raise ConfigError(f"optimizer name={name!r}; choose one of adam, sgd")
    return Optim(
        optax.chain(*clip, *direction, *decay),
        _learning_rate(lr, schedule, warmup_steps),
        _ema(ema_decay, ema_half_life, ema_ramp_up, batch_size, steps_per_update),
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


def _ema(decay, half_life, ramp_up, batch_size, steps_per_update) -> Callable | None:
    if decay is not None:
        return lambda step: jnp.float32(decay)
    if half_life is None:
        return None

    def ramped(step):
        seen = jnp.float32(step) * batch_size
        images = jnp.minimum(half_life, ramp_up * seen)
        # Those until the next update: meanwhile the parameters stay as they are.
        return 0.5 ** (batch_size * steps_per_update / jnp.maximum(images, 1e-8))

    return ramped
