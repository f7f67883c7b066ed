"""The .zip files that EDM's dataset tool makes; read in place, never unpacked."""

import json
import pathlib
import stat
import threading
import zipfile
import zlib

import numpy as np

from kdiff_jax.data.encoded import SUFFIXES, from_encoded
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ConfigError, DataError

MAX_MEMBER = 2**28  # bytes; dataset.json of ImageNet has 6e7


def load(*, path: str | None, split: str, size: int | None) -> Images:
    """Images of a zip, sorted by name, with the labels of its dataset.json, if any.

    dataset.json is {"labels": [["00000/img00000000.png", 6], ...]} or
    {"labels": null}; without the file there are no labels either.

    Args:
        path: The .zip file.
        split: Only "train": another part is another file.
        size: See `resize.to_array`; None keeps them, as the tool has made them.

    Source: the format of github.com/NVlabs/edm, dataset_tool.py (format only).
    """
    if path is None:
        raise ConfigError(
            "data.path=None: edm_zip needs a file; set data.path=FILE.zip"
        )
    if split != "train":
        raise ConfigError(
            f"data.split={split!r}: a zip has no splits; set data.path to the file of"
            " that split"
        )
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; set data.path to a .zip file") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .zip file ({error})") from error
    for info in archive.infolist():
        _check(path, info)
    names = sorted(n for n in archive.namelist() if n.lower().endswith(SUFFIXES))
    if not names:
        raise DataError(f"{path}: no images in it; looked for {', '.join(SUFFIXES)}")
    lock = threading.Lock()  # ZipFile counts its readers without one

    def fetch(number):
        with lock:
            return f"{path}/{names[number]}", _content(path, archive, names[number])

    labels = _labels(path, archive, names)
    return from_encoded(
        fetch,
        np.zeros(len(names), np.int32) if labels is None else labels,
        num_classes=0 if labels is None else int(labels.max()) + 1,
        name=f"edm_zip {path}",
        size=size,
    )


def _check(path, info):
    """Nothing is unpacked, yet such names are a sign of an archive made to harm."""
    where = pathlib.PurePosixPath(info.filename.replace("\\", "/"))
    windows = pathlib.PureWindowsPath(info.filename)
    if where.is_absolute() or windows.drive or ".." in where.parts:
        raise DataError(f"{path}: {info.filename!r} points outside; not read")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{path}: {info.filename!r} is a symbolic link; not read")
    if info.file_size > MAX_MEMBER:
        raise DataError(
            f"{path}: {info.filename!r} has {info.file_size} bytes, above the limit of"
            f" {MAX_MEMBER}; not read"
        )


def _content(path, archive, name):
    try:
        return archive.read(name)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}/{name}: damaged ({error}); copy or make the .zip again"
        ) from error


def _labels(path, archive, names):
    if "dataset.json" not in archive.namelist():
        return None
    where = f"{path}/dataset.json"
    try:
        listed = json.loads(_content(path, archive, "dataset.json"))["labels"]
        by_name = None if listed is None else {name: label for name, label in listed}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f'{where}: must be {{"labels": [[name, label], ...]}} or null'
        ) from error
    if by_name is None:
        return None
    labels = [by_name.get(name) for name in names]
    for name, label in zip(names, labels, strict=True):
        if type(label) is not int:
            raise DataError(
                f"{where}: the label of {name!r} is {label!r}; every image must have an"
                " integer"
            )
    return np.array(labels, np.int64)
