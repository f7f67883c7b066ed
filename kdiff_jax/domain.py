"""What students may be asked for. Below methods and samplers."""

from typing import Any, NamedTuple

import jax.numpy as jnp


class Share(NamedTuple):
    """What one student owns.

    Attributes:
        conditions: i32[n], the numbers of the conditions that it may be asked for.
        t_range: f32[2], the ends of its times, lo < t <= hi.
    """

    conditions: Any
    t_range: Any


def whole(num_classes: int, t_range: tuple[float, float]) -> Share:
    """The share of a student without others: all classes and all times.

    Args:
        num_classes: Number of classes; 0 has the one condition 0.
        t_range: The first and the last time of the process.
    """
    conditions = jnp.arange(max(num_classes, 1), dtype=jnp.int32)
    return Share(conditions, jnp.float32(t_range))
