"""Pictures that cost nothing: a coloured disc on a gradient, for tests and `:tiny`."""

from typing import Literal

import numpy as np

from kdiff_jax.arguments import Count, Whole
from kdiff_jax.data.images import MAX_IN_MEMORY, Images, from_array, refuse
from kdiff_jax.errors import ConfigError


def load(
    *,
    path: str | None,
    split: str,
    size: int | None,
    num_images: Count = 1024,
    channels: Literal[1, 3] = 3,
    num_classes: Whole = 10,
) -> Images:
    """Image i is a function of i, size, channels and num_classes only.

    Its class i % num_classes is the hue of the disc and the direction of the gradient;
    place, radius and brightness differ from image to image.

    Args:
        path: None; there is no file.
        split: Only "train".
        size: Side in pixels; None takes 32.
        num_images: Number of images.
        channels: 1 or 3.
        num_classes: 0 gives images of all hues without labels.

    Raises:
        ConfigError: If there is a path or another split, or a number is out of range.

    Examples:
        >>> from kdiff_jax.data import images
        >>> images.load("synthetic", size=8, num_images=16, num_classes=0).shape
        (8, 8, 3)
    """
    refuse("synthetic", path=path, split=split)
    if channels not in (1, 3):
        raise ConfigError(f"data.channels={channels}: must be 1 or 3")
    if num_images < 1 or num_classes < 0:
        raise ConfigError(
            f"data.num_images={num_images}, num_classes={num_classes}: must be at least"
            " 1 and 0"
        )
    side = size or 32

    def read(indices):
        return _draw(np.asarray(indices), side, channels, num_classes)

    numbers = np.arange(num_images)
    labels = (numbers % max(num_classes, 1)).astype(np.int32)
    if num_images * side * side * channels <= MAX_IN_MEMORY // 16:
        return from_array(
            read(numbers), labels, num_classes=num_classes, name="synthetic"
        )
    shape = (side, side, channels)
    return Images(read, labels, num_images, shape, num_classes, None, "synthetic")


def _draw(indices, side, channels, num_classes):
    def draw(number):  # f[n, 1, 1, 1] in [0, 1), equidistributed over the indices
        primes = np.sqrt([2.0, 3, 5, 7, 11, 13])
        return ((indices + 1) * primes[number] % 1)[:, None, None, None]

    if num_classes:
        hue = (indices % num_classes / num_classes)[:, None, None, None]
    else:
        hue = draw(5)
    down, right = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij")
    down, right = down[None, :, :, None], right[None, :, :, None]

    angle = 2 * np.pi * hue
    slope = (down - 0.5) * np.sin(angle) + (right - 0.5) * np.cos(angle)
    background = 0.25 + 0.2 * draw(0) + 0.3 * slope

    centre = 0.3 + 0.4 * draw(1), 0.3 + 0.4 * draw(2)
    radius = 0.15 + 0.12 * draw(3)
    distance = np.hypot(down - centre[0], right - centre[1])
    # One pixel wide edge, so that no step is sharper than the grid.
    disc = np.clip((radius - distance) * side + 0.5, 0, 1)

    thirds = np.arange(channels) / 3
    colour = 0.55 + 0.4 * np.cos(2 * np.pi * (hue - thirds)) + 0.05 * draw(4)
    x = background * (1 - disc) + colour * disc
    return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)
