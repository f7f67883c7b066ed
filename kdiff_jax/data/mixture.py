"""Points of the plane as images of one pixel: each class a mixture of Gaussians.

For toys whose distribution is known. The two channels are the coordinates in [-1, 1],
as bytes: a step is 0.008, a twelfth of the Gaussians' deviation.
"""

import numpy as np

from kdiff_jax.arguments import Count
from kdiff_jax.data.images import Images, from_array, refuse
from kdiff_jax.errors import ConfigError

WEIGHTS = np.array([0.5, 0.3, 0.2])
STD = 0.1


def load(
    *,
    path: str | None,
    split: str,
    size: int | None,
    num_images: Count = 16384,
    num_classes: Count = 8,
) -> Images:
    """uint8[num_images, 1, 1, 2]; point i is of class i % num_classes, always the same.

    Args:
        path: None; there is no file.
        split: Only "train".
        size: 0 or 1: a point has one pixel.
        num_images: Number of points.
        num_classes: Mixtures; at least 1.

    Raises:
        ConfigError: If there is a path or another split, or a number is out of range.

    Examples:
        >>> from kdiff_jax.data import images
        >>> points = images.load("mixture", num_images=64, num_classes=4)
        >>> points.shape, points.labels[:5].tolist()
        ((1, 1, 2), [0, 1, 2, 3, 0])
    """
    refuse("mixture", path=path, split=split)
    if size not in (None, 0, 1):
        raise ConfigError(f"data.size={size}: a point is an image of one pixel; give 1")
    if num_classes < 1 or num_images < num_classes:
        raise ConfigError(
            f"data.num_images={num_images}, num_classes={num_classes}: at least one"
            " class, and a point of each"
        )
    random = np.random.RandomState(0)
    labels = (np.arange(num_images) % num_classes).astype(np.int32)
    mode = random.choice(len(WEIGHTS), num_images, p=WEIGHTS)
    points = means(num_classes)[labels, mode] + STD * random.randn(num_images, 2)
    pixels = np.round(127.5 * (np.clip(points, -1, 1) + 1)).astype(np.uint8)
    return from_array(
        pixels[:, None, None], labels, num_classes=num_classes, name="mixture"
    )


def means(num_classes: Count) -> np.ndarray:
    """f64[num_classes, modes, 2], the centres: on rings, a third of a turn apart.

    Neighbouring classes lie a turn / num_classes apart, so that what a student of near
    classes must know is alike.
    """
    c, m = np.arange(num_classes)[:, None], np.arange(len(WEIGHTS))[None]
    angle = 2 * np.pi * (c / num_classes + m / len(WEIGHTS))
    radius = 0.35 + 0.2 * m
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
