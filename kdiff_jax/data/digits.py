"""The 1797 real 8x8 digits that come with scikit-learn. No download."""

import numpy as np

from kdiff_jax.data.images import Images, from_array, refuse
from kdiff_jax.data.resize import check_channels, described, resize_all


def load(
    *, path: str | None, split: str, size: int | None, channels: int | None = None
) -> Images:
    """Handwritten digits, 8x8x1, 10 classes, in scikit-learn's order.

    The data has 17 grey levels g = 0 .. 16; u = round(255 g / 16), to the nearest even
    number in a tie, and g = round(16 u / 255) gives them back exactly.

    Args:
        path: None; there is no file.
        split: Only "train".
        size: Side in pixels that they are resized to; None for 8.
        channels: 1 or 3; None for 1.

    Raises:
        ConfigError: If there is a path, another split or no such number of channels.

    Source: UCI Optical Recognition of Handwritten Digits, by sklearn's load_digits.

    Examples:
        >>> from kdiff_jax.data import images
        >>> images.load("digits", size=16, channels=3).shape
        (16, 16, 3)
    """
    refuse("digits", path=path, split=split)
    check_channels(channels)
    # Slow to import, and nobody else needs it.
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    array = np.round(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    array = resize_all(array, size, name="digits", channels=channels)
    found = from_array(array, np.asarray(labels), num_classes=10, name="digits")
    return found._replace(prepared=described(None if size == 8 else size))
