"""Arrays as foreign files hold them: bytes, a type and a shape, none of them trusted.

Every check happens before an array is made, so that reading it later cannot fail.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy

MAX_DIMS = 32
MAX_BYTES = (
    2**62
)  # numpy counts bytes in 63 bits, also those of an array with a 0 in it


def checked_shape(shape: Any, dtype: np.dtype) -> tuple[int, ...]:
    """The shape, if numpy can make such an array.

    Raises:
        CheckpointError: If it cannot.
    """
    if (
        type(shape) not in (tuple, list)
        or len(shape) > MAX_DIMS
        or any(type(n) is not int or n < 0 for n in shape)
        or math.prod(max(n, 1) for n in shape) * dtype.itemsize > MAX_BYTES
    ):
        raise CheckpointError("an array has no possible shape")
    return tuple(shape)


def dense(data, dtype: np.dtype, shape: Any, order: Literal["C", "F"] = "C") -> Lazy:
    """The array whose elements are all of `data`, copied when read.

    Args:
        data: Bytes or another buffer of bytes.
        shape: Natural numbers, if the file is right.
        order: "C" or "F", that of the elements in `data`.

    Raises:
        CheckpointError: If shape and type do not need exactly these bytes.
    """
    shape = checked_shape(shape, dtype)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"{len(data)} bytes cannot be {dtype.name}{list(shape)}")

    def read():
        array = np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)
        return np.array(array.reshape(shape, order=order), order="C")

    return Lazy(shape, dtype, read)


def strided(
    data: Callable[[], Any],
    num: int,
    dtype: np.dtype,
    offset: Any,
    shape: Any,
    strides: tuple | list,
) -> Lazy:
    """The array at `offset` of a storage, with strides in elements, copied when read.

    Args:
        data: Gives the storage, a buffer of `num` elements of `dtype`.
        offset, shape, strides: Natural numbers, if the file is right.

    Raises:
        CheckpointError: If it reaches beyond the storage, or is larger than it.
    """
    shape = checked_shape(shape, dtype)
    numbers = (offset, *strides)
    if len(strides) != len(shape) or any(type(n) is not int or n < 0 for n in numbers):
        raise CheckpointError("offset and strides of a tensor are not natural numbers")
    # The stride of an axis of one element is never used, and may be any number.
    strides = [s if n > 1 else 0 for n, s in zip(shape, strides, strict=True)]
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if size and (last >= num or size > num):
        raise CheckpointError(
            f"a tensor of {size} elements up to element {last} is claimed of a storage"
            f" of {num}"
        )

    def read():
        if not size:
            return np.empty(shape, dtype)
        flat = np.frombuffer(data(), dtype)[offset:]
        steps = [s * dtype.itemsize for s in strides]
        return np.array(
            np.lib.stride_tricks.as_strided(flat, shape, steps), dtype, order="C"
        )

    return Lazy(shape, dtype, read)


def shown(text: Any) -> str:
    """Text from a file, for a message: short, one line, no control characters."""
    if not isinstance(text, (str, bytes, int, float, type(None))):
        return f"a {type(text).__name__}"  # its own text may be endless
    if isinstance(text, str):
        line = ascii(text[:200])[1:-1]
    else:
        line = ascii(text[:200] if isinstance(text, bytes) else text)
    return line if len(line) <= 80 else line[:77] + "..."
