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

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> last = rng.example_keys(jax.random.key(0), 7, jnp.array([3]))
        >>> keys.shape, bool(keys[3] == last[0])
        ((4,), True)
    """
    key = jax.random.fold_in(root, step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)


def stream(keys: Keys, name: str) -> Keys:
    """Key[B] of the stream `name`. A new stream never shifts the others.

    Args:
        keys: Key[B], one of each example.
        name: Name of the stream.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> noise = rng.stream(keys, "fake")
        >>> noise.shape, bool((noise == keys).any())
        ((4,), False)
    """
    tag = zlib.crc32(name.encode())
    return jax.vmap(lambda k: jax.random.fold_in(k, tag))(keys)


def normal(keys: Keys, name: str, shape: tuple[int, ...]):
    """N(0, 1), f32[B, ...], by the keys of a stream.

    Args:
        keys: Key[B], one of each example.
        name: Name of the stream.
        shape: Shape of one example.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> rng.normal(keys, "eps", (8, 8, 3)).shape
        (4, 8, 8, 3)
    """
    return jax.vmap(lambda k: jax.random.normal(k, shape))(stream(keys, name))


def uniform(keys: Keys, name: str, shape: tuple[int, ...] = ()):
    """U[0, 1), f32[B, ...], by the keys of a stream.

    Args:
        keys: Key[B], one of each example.
        name: Name of the stream.
        shape: Shape of one example.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> u = rng.uniform(keys, "t")
        >>> u.shape, bool(((0 <= u) & (u < 1)).all())
        ((4,), True)
    """
    return jax.vmap(lambda k: jax.random.uniform(k, shape))(stream(keys, name))


def randint(keys: Keys, name: str, num):
    """i32[B], uniform on 0 .. num - 1.

    Args:
        keys: Key[B], one of each example.
        name: Name of the stream.
        num: How many numbers there are; may be traced.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> i = rng.randint(keys, "step", 3)
        >>> i.dtype.name, set(i.tolist()) <= {0, 1, 2}
        ('int32', True)
    """
    draw = jax.vmap(lambda k: jax.random.randint(k, (), 0, num))
    return draw(stream(keys, name)).astype(jnp.int32)


def choice(keys: Keys, name: str, values):
    """[B], each one of some values with the same probability.

    Args:
        keys: Key[B], one of each example.
        name: Name of the stream.
        values: [n], an array.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> y = rng.choice(keys, "y_gen", jnp.array([3, 5]))
        >>> y.shape, set(y.tolist()) <= {3, 5}
        ((4,), True)
    """
    return values[randint(keys, name, len(values))]


def bernoulli(keys: Keys, name: str, prob, shape: tuple[int, ...] = ()):
    """bool[B, ...], True with some probability.

    Args:
        keys: Key[B], one of each example.
        name: Name of the stream.
        prob: The probability, 0 to 1.
        shape: Shape of one example.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import rng
        >>> keys = rng.example_keys(jax.random.key(0), 7, jnp.arange(4))
        >>> rng.bernoulli(keys, "null", 1.0).tolist()
        [True, True, True, True]
    """
    return uniform(keys, name, shape) < prob
