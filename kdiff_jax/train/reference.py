"""What a model is compared with: statistics of a file, or those of a set of images."""

import os
import pathlib
import re
from collections.abc import Collection

from kdiff_jax.data import identity, images
from kdiff_jax.errors import ConfigError, DataError, UserError
from kdiff_jax.metrics import stats
from kdiff_jax.metrics.features import Features, check_shape, dim_of
from kdiff_jax.metrics.stats import Stats
from kdiff_jax.train import measure
from kdiff_jax.train.coco_protocols import Protocol

SETS = ("digits", "synthetic", "mixture")  # that need no file


def of(
    text: str,
    path: pathlib.Path,
    features: Features,
    image_shape: tuple[int, ...],
    needs: Collection[str] = (),
    protocol: Protocol | None = None,
) -> Stats:
    """Statistics of the features.

    Args:
        text: What the user named: a file, a folder, or a set of `data.images`.
        path: The same as a path.
        features: The features.
        image_shape: (H, W, C) of the model's images. A set is cropped and resized to
            squares for a model that makes such; for another it must have its size.
        needs: What metrics read beside moments, see `metrics.table`.
        protocol: What is done to images of a folder; `image_shape` is after it.

    Raises:
        ConfigError: If there is no such set.
        DataError: If it is missing, damaged, or of other images or features.
    """
    _check_file(text, path)
    if path.suffix == ".npz" and stats.is_stats(path):
        return stats.load_stats(
            path,
            features=features,
            dim=dim_of(features, image_shape),
            image_shape=image_shape,
            needs=needs,
        )
    height, width, _ = image_shape
    side = height if height == width else None
    data = _set(text, path, side, "labels" in needs, protocol)
    if data.shape != tuple(image_shape):
        raise DataError(
            f"reference={text}: images of {list(data.shape)}, and the model makes"
            f" {list(image_shape)}; give others"
        )
    return of_images(text, data, features, needs)


def made(
    text: str,
    path: pathlib.Path,
    features: Features,
    needs: Collection[str] = (),
    size: int | None = None,
    protocol: Protocol | None = None,
) -> Stats:
    """Statistics of a set, to be written to a file; see `of`.

    Args:
        text: What the user named.
        path: The same as a path.
        features: The features.
        needs: What metrics read beside moments.
        size: Side of the squares that images are cropped and resized to; None leaves
            them as they are.
        protocol: What is done to images of a folder, in the place of that.

    Raises:
        ConfigError: If there is no such set, or it has images that the features cannot
            read.
        DataError: If it is missing, damaged, or statistics already.
    """
    _check_file(text, path)
    if path.suffix == ".npz" and stats.is_stats(path):
        raise DataError(f"reference={text}: are statistics already; name a data set")
    data = _set(text, path, size, "labels" in needs, protocol)
    check_shape(features, data.shape)
    return of_images(text, data, features, needs)


def of_images(
    text: str, data: images.Images, features: Features, needs: Collection[str]
) -> Stats:
    """Statistics of all images of a set."""
    if data.num < 2:
        raise DataError(f"reference={text}: a single image has no covariance; give two")
    if "labels" in needs and not data.num_classes:
        raise DataError(f"reference={text}: has no labels to group its images by")
    seen = measure.of_data(data, features, needs={"moments", *needs})
    if not data.num_classes:
        seen = seen._replace(labels=None)
    print_of = str(identity.of(data)["sha256"])
    return stats.of_seen(
        seen,
        features,
        data=print_of,
        image_shape=data.shape,
        prepared=data.prepared,
    )


def _check_file(text: str, path: pathlib.Path) -> None:
    # Of a name that is too long, os.path says that it is not there.
    if os.path.exists(path) and not (os.path.isdir(path) or path.is_file()):
        raise DataError(f"reference={text}: is no regular file; give another")


def _set(
    text: str,
    path: pathlib.Path,
    size: int | None,
    use_labels: bool,
    protocol: Protocol | None,
) -> images.Images:
    """The images of a folder, a file or a set; labels count where groups need them."""
    kind, where = text, str(path)
    if protocol:
        return _of_protocol(text, path, protocol)
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
        return images.load(kind, path=where, size=size, use_labels=use_labels)
    except UserError as error:
        # Whose ways out are options of a recipe.
        why = re.sub(r"[;,] [^;,]*\bdata\.\w.*", "", str(error))
        way_out = "or give others"
        if size is None and "data.size" in str(error):
            way_out = "give images of one size; --make_reference has --image_size"
        raise type(error)(f"{_of_reference(text, path, why)}; {way_out}") from error


def _of_reference(text: str, path: pathlib.Path, why: str) -> str:
    """What is wrong with a reference; its own path is not said twice."""
    rest = why.removeprefix(str(path))
    is_inside = rest != why and rest[:1] in (":", "/")
    return f"reference={text}{rest}" if is_inside else f"reference={text}: {why}"


def _of_protocol(text: str, path: pathlib.Path, protocol: Protocol) -> images.Images:
    if not path.is_dir():
        raise ConfigError(
            f"reference={text}: {protocol.name} crops and resizes the images of a"
            " folder; give one, or statistics that were made so (.npz)"
        )
    try:
        return protocol.real(str(path))
    except UserError as error:
        raise type(error)(_of_reference(text, path, str(error))) from error
