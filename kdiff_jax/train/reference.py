"""What a model is compared with: statistics of a file, or those of a set of images."""

import os
import pathlib
import re

from kdiff_jax.data import images
from kdiff_jax.errors import ConfigError, DataError, UserError
from kdiff_jax.metrics import moments
from kdiff_jax.metrics.features import Features, dim_of
from kdiff_jax.train import measure

SETS = ("digits", "synthetic", "mixture")  # that need no file


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
    # Of a name that is too long, os.path says that it is not there.
    if os.path.exists(path) and not (os.path.isdir(path) or path.is_file()):
        raise DataError(f"reference={text}: is no regular file; give another")
    if path.suffix == ".npz" and moments.is_stats(path):
        dim = dim_of(features, image_shape)
        stats = moments.load_stats(path, features=features.name, dim=dim)
        return stats.mu, stats.sigma
    height, width, _ = image_shape
    data = _set(text, path, size=height if height == width else None)
    if data.shape != tuple(image_shape):
        raise DataError(
            f"reference={text}: images of {list(data.shape)}, and the model makes"
            f" {list(image_shape)}; give others"
        )
    if data.num < 2:
        raise DataError(f"reference={text}: a single image has no covariance; give two")
    found = measure.of_data(data, features)
    return found.mu, found.sigma


def _set(text: str, path: pathlib.Path, *, size: int | None) -> images.Images:
    """The images of a folder, a file or a set; labels do not count."""
    kind, where = text, str(path)
    if os.path.isdir(path):
        kind = "folder"
    elif path.suffix in (".npz", ".zip"):
        kind = "npz" if path.suffix == ".npz" else "edm_zip"
    elif text.startswith("tfds:") or text in (*SETS, *images.TFDS_NAMES):
        where = None
    else:
        known = ", ".join((*SETS, *images.TFDS_NAMES))
        raise ConfigError(
            f"reference={text}: no folder, .npz or .zip, and none of the sets {known},"
            " tfds:NAME"
        )
    try:
        return images.load(kind, path=where, size=size, use_labels=False)
    except UserError as error:
        # Whose ways out are options of a recipe.
        why = re.sub(r"[;,] [^;,]*\bdata\.\w.*", "", str(error))
        raise type(error)(f"reference={text}: {why}; or give others") from error
