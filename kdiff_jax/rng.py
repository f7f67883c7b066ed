"""Random numbers that belong to an example and have a name.

One key per example, derived from (root, step, place in the global batch), and one
stream per name: so a result depends neither on the number of devices nor on the draws
that other code makes.
"""

import operator
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.arguments import MAX_SEED
from kdiff_jax.errors import ConfigError
from kdiff_jax.types import Keys


def checked_seed(seed: Any, argument: str = "seed") -> np.uint32:
    """The seed as the devices take it.

    Args:
        seed: Integer from 0 to `MAX_SEED`.
        argument: Name of the option that it came from, for the message.

    Raises:
        ConfigError: If it is another number.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if isinstance(seed, bool) or not 0 <= value <= MAX_SEED:
        raise ConfigError(f"{argument}={seed!r}: give an integer from 0 to {MAX_SEED}")
    return np.uint32(value)


def example_keys(root, step, positions) -> Keys:
    """Key[B]: a function of root, step and place in the global batch only.

    Args:
        root: One typed key.
        step: i32[], the training step, or 0 where there is none.
        positions: i32[B], places in the global batch (or numbers of images).
    """
    key = jax.random.fold_in(root, step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)


def stream(keys: Keys, name: str) -> Keys:
    """Key[B] of the stream `name`. A new stream never shifts the others."""
    tag = zlib.crc32(name.encode())
    return jax.vmap(lambda k: jax.random.fold_in(k, tag))(keys)


def normal(keys: Keys, name: str, shape: tuple[int, ...]):
    """N(0, 1), f32[B, *shape]."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(stream(keys, name))


def uniform(keys: Keys, name: str, shape: tuple[int, ...] = ()):
    """U[0, 1), f32[B, *shape]."""
    return jax.vmap(lambda k: jax.random.uniform(k, shape))(stream(keys, name))


def randint(keys: Keys, name: str, num):
    """i32[B], uniform on 0 .. num - 1; `num` may be a traced number."""
    draw = jax.vmap(lambda k: jax.random.randint(k, (), 0, num))
    return draw(stream(keys, name)).astype(jnp.int32)


def choice(keys: Keys, name: str, values):
    """[B], each one of `values` [n] with the same probability."""
    return values[randint(keys, name, len(values))]


def bernoulli(keys: Keys, name: str, prob, shape: tuple[int, ...] = ()):
    """bool[B, *shape], True with probability `prob`."""
    return uniform(keys, name, shape) < prob
