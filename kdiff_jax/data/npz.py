"""Images in a .npz file: uint8[N, H, W, C] or [N, H, W], with or without labels."""

import logging
import os

import numpy as np

from kdiff_jax import arrays
from kdiff_jax.data.images import Images, from_array
from kdiff_jax.data.labels import WAY_OUT, checked
from kdiff_jax.data.listing import is_image
from kdiff_jax.data.resize import check_channels, described, resize_all
from kdiff_jax.errors import DataError, NotGiven
from kdiff_jax.files import Unreadable

log = logging.getLogger(__name__)

# "{}" is the split; the names without it are for files that hold one set only.
IMAGE_KEYS = ("x_{}", "{}_images", "images_{}", "{}", "images", "x", "arr_0")
LABEL_KEYS = ("y_{}", "{}_labels", "labels_{}", "labels", "y", "arr_1")


def load(
    *,
    path: str | None,
    split: str,
    size: int | None,
    use_labels: bool = True,
    channels: int | None = None,
) -> Images:
    """The images of one split of a .npz file.

    Args:
        path: The file. Its images are under the first name of IMAGE_KEYS that it has,
            its labels (integers from 0) under the first of LABEL_KEYS, if any. An array
            `classes`, the names of the classes, says how many there are; without it
            the largest label does.
        split: "train", "test", ...; what the keys are called with.
        size: Side in pixels that images are cropped and resized to; None keeps
            them.
        use_labels: False reads none.
        channels: 1 or 3, that images are converted to; None keeps them.

    Raises:
        NotGiven: If there is no path.
        ConfigError: If there are no such channels.
        DataError: If the file is missing or damaged, or holds no images of this
            split, or labels that are none.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.data import images
        >>> pictures = np.zeros((4, 8, 8, 3), np.uint8)
        >>> np.savez("mine.npz", images=pictures, labels=np.array([0, 1, 1, 0]))
        >>> found = images.load("npz", path="mine.npz")
        >>> found.shape, found.num_classes
        ((8, 8, 3), 2)
    """
    if path is None:
        raise NotGiven("data.path=None: npz needs a file; set data.path=FILE.npz")
    check_channels(channels)
    if os.path.isdir(path):
        raise DataError(f"{path}: a folder, no file; set data.name=folder")
    try:
        keys = sorted(arrays.names(path))
        image_key = _first(keys, IMAGE_KEYS, split)
        label_key = _first(keys, LABEL_KEYS, split) if use_labels else None
        wanted = (image_key, label_key, "classes" if label_key else None)
        found = arrays.load(path, only=[key for key in wanted if key])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; set data.path to a .npz file") from None
    except Unreadable as error:
        if path.endswith(".npy"):
            raise DataError(
                f"{path}: a .npy file; save it with np.savez(images=...)"
            ) from error
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    if image_key is None:
        if any(map(is_image, keys)):
            raise DataError(f"{path}: a .zip of images; set data.name=edm_zip")
        names = ", ".join(key.format(split) for key in IMAGE_KEYS)
        has = ", ".join(keys[:20]) or "no arrays"
        raise DataError(
            f"{path}: no images of split {split!r}; it has {has}; they should be called"
            f" one of {names}"
        )
    array = found[image_key]
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: images {array.dtype}{list(array.shape)}; they must be"
            " uint8[N, H, W, C] with C 1 or 3, or uint8[N, H, W]"
        )
    if not array.size:
        raise DataError(f"{path}: no images of split {split!r}; the array is empty")
    labels, num_classes = None, 0
    if label_key:
        classes = found.get("classes")
        labels, num_classes = _labels(path, found[label_key], len(array), classes)
    elif use_labels and (others := set(keys) - {image_key}):
        log.info(
            "%s: no labels among its arrays; %s not read",
            path,
            ", ".join(sorted(others)),
        )
    resized = size if array.shape[1:3] != (size, size) else None
    array = resize_all(array, size, name=path, channels=channels)
    found = from_array(array, labels, num_classes=num_classes, name=f"npz {path}")
    return found._replace(prepared=described(resized))


def _labels(path, labels, num, classes):
    labels = labels[:, 0] if labels.shape == (num, 1) else labels
    if labels.shape != (num,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels {labels.dtype}{list(labels.shape)} for {num} images; they"
            f" must be one integer for each: {WAY_OUT}"
        )
    if classes is not None and classes.ndim != 1:
        raise DataError(
            f"{path}: classes {classes.dtype}{list(classes.shape)}; they must be a list"
            " of the classes' names"
        )
    num_classes = None if classes is None else len(classes)
    names = [] if classes is None else [str(name) for name in classes.tolist()]
    return checked(labels, where=path, num_classes=num_classes, names=names)


def _first(keys, wanted, split):
    for key in wanted:
        if key.format(split) in keys:
            return key.format(split)
    return None
