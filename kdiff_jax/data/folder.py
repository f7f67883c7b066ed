"""A folder of images, searched recursively."""

import os
import pathlib

import numpy as np

from kdiff_jax.data.encoded import SUFFIXES, from_encoded
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ConfigError, DataError


def load(*, path: str | None, split: str, size: int | None) -> Images:
    """All .png, .jpg, .jpeg and .webp files under `path`, sorted by their names.

    The first-level folder of an image is its class, in alphabetic order. Images that
    all lie in `path` itself, or all in one folder, have no labels.

    Args:
        path: The folder.
        split: Only "train": another part is another folder.
        size: See `resize.to_array`; None needs images that are all of one size.
    """
    if path is None:
        raise ConfigError("data.path=None: folder needs one; set data.path=FOLDER")
    if split != "train":
        raise ConfigError(
            f"data.split={split!r}: a folder has no splits; set data.path to the"
            " folder of that split"
        )
    root = pathlib.Path(path)
    if not root.is_dir():
        raise DataError(f"{path}: no such folder; set data.path to a folder of images")
    names = sorted(
        (pathlib.Path(where) / name).relative_to(root).as_posix()
        for where, _, files in os.walk(root)
        for name in files
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
    if not names:
        raise DataError(f"{path}: no images in it; looked for {', '.join(SUFFIXES)}")
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops))
    if "" in classes and len(classes) > 1:
        raise DataError(
            f"{path}: images in it and in folders of it ({names[tops.index('')]},"
            f" {next(n for n in names if '/' in n)}); put each into the folder of its"
            " class"
        )
    return from_encoded(
        lambda number: (str(root / names[number]), _content(root / names[number])),
        np.array([classes.index(top) for top in tops], np.int32),
        num_classes=len(classes) if len(classes) > 1 else 0,
        name=f"folder {path}",
        size=size,
    )


def _content(file):
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
