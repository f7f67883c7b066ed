"""uint8 pixels <-> [-1, 1], for arrays of NumPy and of JAX; the results are JAX's."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def to_float(u: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """x = u/127.5 - 1, float32 in [-1, 1]."""
    return jnp.asarray(u, jnp.float32) / 127.5 - 1


def to_uint8(x: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
    """u = round(127.5 clip(x, -1, 1) + 127.5), the inverse of `to_float`.

    The nearest level: for everything that is looked at or measured.
    """
    u = jnp.clip(jnp.asarray(x, jnp.float32), -1, 1) * 127.5 + 127.5
    return jnp.round(u).astype(jnp.uint8)


def truncate_to_uint8(x: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
    """u = trunc(127.5 clip(x, -1, 1) + 127.5): the targets of Denoising Student.

    Half a level darker than `to_uint8` on the average; the authors' data is made so.

    Source: Luhman & Luhman 2021, arXiv:2101.02388, released code.
    """
    u = jnp.clip(jnp.asarray(x, jnp.float32), -1, 1) * 127.5 + 127.5
    return u.astype(jnp.uint8)
