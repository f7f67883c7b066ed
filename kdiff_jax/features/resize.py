"""Resizes as the feature networks' own code has them, by name, on the device.

Every one of them is linear and separable: a matrix for the rows and one for the
columns, so that a filter is a row of numbers and the rest is two matrix products.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32

from kdiff_jax import registry
from kdiff_jax.features.frozen import PRECISION


def resize(
    x: Float[Array, "B H W C"],
    shape: tuple[int, int],
    name: str,
    *,
    whole: bool = False,
) -> Float[Array, "B h w C"]:
    """Images in another size.

    Args:
        x: Images, of any range.
        shape: (h, w).
        name: "tf1" (TensorFlow 1's bilinear: corners aligned at the first pixel alone,
            no antialiasing), "torch" and "torch_bicubic" (pixel centres at halves, no
            antialiasing), or a filter of PIL, all antialiased: "box", "bilinear",
            "bicubic", "lanczos".
        whole: Numbers are rounded to 0, 1, ..., 255 after each direction, as PIL does
            with images of bytes.

    Raises:
        ConfigError: If there is no such resize.
    """
    (height, width), (h, w) = x.shape[1:3], shape
    columns, rows = matrix(name, width, w), matrix(name, height, h)
    along = [("qw,nhwc->nhqc", columns), ("ph,nhwc->npwc", rows)]
    if h < height and w > width:  # PIL goes first where pixels become fewer
        along.reverse()
    for axes, weights in along:
        x = jnp.einsum(axes, weights, x, precision=PRECISION)
        x = _rounded(x) if whole else x
    return x


def short_side(
    x: Float[Array, "B H W C"], size: int, name: str, *, whole: bool = False
) -> Float[Array, "B {size} {size} C"]:
    """The centred square of images whose shorter side is resized to `size`.

    Args:
        x: Images.
        size: Side of the result, in pixels.
        name: See `resize`.
        whole: See `resize`.
    """
    height, width = x.shape[1:3]
    short = min(height, width)
    # The longer side is cut to whole pixels, as torchvision does.
    shape = (size * height // short, size * width // short)
    x = resize(x, shape, name, whole=whole)
    # Python's round, to the nearest even number, as torchvision's too.
    top, left = (round((side - size) / 2) for side in shape)
    return x[:, top : top + size, left : left + size]


@functools.cache
def matrix(name: str, num_in: int, num_out: int) -> Float32[np.ndarray, "O I"]:
    """The weights of each pixel of a line in those of the resized line."""
    make = registry.entry(_MATRICES, name, what="resize")
    weights = make(num_in, num_out)
    weights.flags.writeable = False
    return weights


def _rounded(x):
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)


def _between(at, num_in):
    """Linear interpolation at places in pixels; float32 as where it is from."""
    low = np.floor(at).astype(int)
    share = at - low.astype(np.float32)
    rows = np.arange(len(at))
    weights = np.zeros((len(at), num_in), np.float32)
    weights[rows, low] = 1 - share
    weights[rows, np.minimum(low + 1, num_in - 1)] += share
    return weights


def _tf1(num_in, num_out):
    step = np.float32(num_in) / np.float32(num_out)
    return _between(np.arange(num_out, dtype=np.float32) * step, num_in)


def _torch(num_in, num_out):
    step = np.float32(num_in) / np.float32(num_out)
    half = np.float32(0.5)
    at = (np.arange(num_out, dtype=np.float32) + half) * step - half
    return _between(np.maximum(at, 0), num_in)


def _antialiased(kernel: Callable, radius: float, num_in: int, num_out: int):
    """PIL's: the kernel is as wide as a pixel of the smaller of the two images."""
    step = num_in / num_out
    stretch = max(step, 1.0)
    weights = np.zeros((num_out, num_in))
    for i in range(num_out):
        centre = (i + 0.5) * step
        first = max(int(centre - radius * stretch + 0.5), 0)
        last = min(int(centre + radius * stretch + 0.5), num_in)
        pixels = np.arange(first, last) + 0.5 - centre
        values = np.array([kernel(abs(pixel) / stretch) for pixel in pixels])
        weights[i, first:last] = values / values.sum()
    return weights.astype(np.float32)


def _torch_bicubic(offset: float, num_in: int, num_out: int):
    """Cubic with a = -3/4, no antialiasing; beyond the edge are the pixels of the edge.

    Args:
        offset: DINOv2's, by which it makes the result larger before it asks for its
            size, so that the grid that is asked for is not missed by rounding.
    """
    step = num_in / (num_out + offset)
    weights = np.zeros((num_out, num_in))
    for i in range(num_out):
        at = (i + 0.5) * step - 0.5
        for pixel in range(math.floor(at) - 1, math.floor(at) + 3):
            share = _cubic(abs(pixel - at), -0.75)
            weights[i, min(max(pixel, 0), num_in - 1)] += share
    return weights.astype(np.float32)


def _box(x):
    return float(x <= 0.5)


def _bilinear(x):
    return max(1 - x, 0.0)


def _cubic(x, a=-0.5):
    """Keys 1981."""
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x**2 + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _lanczos(x):
    return _sinc(x) * _sinc(x / 3) if x < 3 else 0.0


def _sinc(x):
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


_MATRICES: dict[str, Callable] = {
    "tf1": _tf1,
    "torch": _torch,
    "torch_bicubic": functools.partial(_torch_bicubic, 0.0),
    "torch_bicubic_offset": functools.partial(_torch_bicubic, 0.1),
    "box": functools.partial(_antialiased, _box, 0.5),
    "bilinear": functools.partial(_antialiased, _bilinear, 1.0),
    "bicubic": functools.partial(_antialiased, _cubic, 2.0),
    "lanczos": functools.partial(_antialiased, _lanczos, 3.0),
}
