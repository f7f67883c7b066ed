"""An array that is read when it is wanted: files hand it over, conversions pass it on.

A checkpoint of gigabytes is converted leaf by leaf: no stage holds more than one leaf
beside the file itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Lazy(NamedTuple):
    """Attributes: `shape` and `dtype` of what `read` will return, known beforehand."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def transpose(self, *axes: int) -> "Lazy":
        """The array with its axes in another order."""
        shape = tuple(self.shape[axis] for axis in axes)
        return Lazy(shape, self.dtype, lambda: self.read().transpose(axes))

    def reshape(self, *shape: int) -> "Lazy":
        """The array in another shape of the same size, without -1."""
        return Lazy(shape, self.dtype, lambda: self.read().reshape(shape))

    def take(self, index) -> "Lazy":
        """The part `array[index]`; `index` of slices, integers and None."""
        shape = np.empty(self.shape, np.bool_)[index].shape
        return Lazy(shape, self.dtype, lambda: self.read()[index])

    def astype(self, dtype) -> "Lazy":
        """The array in another type."""
        return Lazy(
            self.shape, np.dtype(dtype), lambda: self.read().astype(dtype, copy=False)
        )


def of(array: np.ndarray) -> Lazy:
    """An array that is there already."""
    return Lazy(array.shape, array.dtype, lambda: array)


def joined(parts: Sequence[Lazy], axis: int) -> Lazy:
    """The arrays one behind another along an axis; of one type and as many axes."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)

    def read():
        return np.concatenate([part.read() for part in parts], axis)

    return Lazy(tuple(shape), parts[0].dtype, read)
