"""Images in a .npz file: uint8[N, H, W, C] or [N, H, W], with or without labels."""

import zipfile
import zlib

import numpy as np

from kdiff_jax.data.images import Images, from_array
from kdiff_jax.data.resize import resize_all
from kdiff_jax.errors import ConfigError, DataError

# "{}" is the split; the names without it are for files that hold one set only.
IMAGE_KEYS = ("x_{}", "{}_images", "images_{}", "{}", "images", "x", "arr_0")
LABEL_KEYS = ("y_{}", "{}_labels", "labels_{}", "labels", "y", "arr_1")


def load(*, path: str | None, split: str, size: int | None) -> Images:
    """The images of one split of a .npz file.

    Args:
        path: The file. Its images are under the first name of IMAGE_KEYS that it has,
            its labels (integers from 0) under the first of LABEL_KEYS, if any. An array
            `classes`, the names of the classes, says how many there are; without it
            the largest label does.
        split: "train", "test", ...; what the keys are called with.
        size: See `resize.to_array`.
    """
    if path is None:
        raise ConfigError("data.path=None: npz needs a file; set data.path=FILE.npz")
    try:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise DataError(f"{path}: a .npy file; save it with np.savez(images=...)")
        with arrays:
            array = _first(arrays, IMAGE_KEYS, split)
            labels = _first(arrays, LABEL_KEYS, split)
            keys = sorted(arrays.files)
            classes = arrays["classes"] if "classes" in keys else None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; set data.path to a .npz file") from None
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable .npz file ({why})") from error
    if array is None:
        wanted = ", ".join(key.format(split) for key in IMAGE_KEYS)
        raise DataError(
            f"{path}: no images of split {split!r}; it has {', '.join(keys)};"
            f" they should be called one of {wanted}"
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: images {array.dtype}{list(array.shape)}; they must be"
            " uint8[N, H, W, C] with C 1 or 3, or uint8[N, H, W]"
        )
    if not len(array):
        raise DataError(f"{path}: no images of split {split!r}; the array is empty")
    num_classes = 0
    if labels is not None:
        labels = labels[:, 0] if labels.shape == (len(array), 1) else labels
        if labels.shape != (len(array),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{path}: labels {labels.dtype}{list(labels.shape)} for {len(array)}"
                " images; they must be one integer for each"
            )
        num_classes = int(labels.max()) + 1 if classes is None else len(classes)
        if labels.min() < 0 or labels.max() >= num_classes:
            raise DataError(
                f"{path}: labels from {labels.min()} to {labels.max()};"
                f" they must be 0 .. {num_classes - 1}"
            )
    array = resize_all(array, size, name=path)
    return from_array(array, labels, num_classes=num_classes, name=f"npz {path}")


def _first(arrays, keys, split):
    for key in keys:
        if key.format(split) in arrays.files:
            return arrays[key.format(split)]
    return None
