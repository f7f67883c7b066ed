"""What a model is compared with: statistics of a file, or those of a set of images."""

import os
import pathlib

from kdiff_jax.data import images
from kdiff_jax.errors import DataError
from kdiff_jax.metrics import moments
from kdiff_jax.metrics.features import Features, dim_of
from kdiff_jax.train import measure


def of(
    text: str, path: pathlib.Path, features: Features, image_shape: tuple[int, ...]
) -> tuple:
    """(mu, sigma) of the features.

    Args:
        text: What the user named: a file, a folder, or a set of `data.images`.
        path: The same as a path.
        features: The extractor.
        image_shape: (H, W, C) of the model's images. A set is cropped and resized to
            squares for a model that makes such; for another it must have its size.

    Raises:
        ConfigError: If there is no such set.
        DataError: If it is missing, damaged, or of other images or features.
    """
    is_folder = os.path.isdir(path)  # also of a name that is too long
    if os.path.exists(path) and not (is_folder or path.is_file()):
        raise DataError(f"reference={text}: is no regular file; give another")
    if path.suffix == ".npz" and moments.is_stats(path):
        dim = dim_of(features, image_shape)
        stats = moments.load_stats(path, features=features.name, dim=dim)
        return stats.mu, stats.sigma
    height, width, _ = image_shape
    size = height if height == width else None
    if is_folder:
        data = images.load("folder", path=str(path), size=size)
    elif path.suffix in (".npz", ".zip"):
        kind = "npz" if path.suffix == ".npz" else "edm_zip"
        data = images.load(kind, path=str(path), size=size)
    else:
        data = images.load(text, size=size)
    if data.shape != tuple(image_shape):
        raise DataError(
            f"reference={text}: images of {list(data.shape)}, and the model makes"
            f" {list(image_shape)}; give others"
        )
    found = measure.of_data(data, features)
    return found.mu, found.sigma
