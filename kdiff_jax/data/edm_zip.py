"""The .zip files that EDM's dataset tool makes; read in place, never unpacked."""

import logging
import os
import pathlib
import stat
import threading

import numpy as np

from kdiff_jax import zips
from kdiff_jax.data import edm_labels, labels, parts
from kdiff_jax.data.encoded import FORMATS, MAX_BYTES, Look, from_encoded
from kdiff_jax.data.images import BACKGROUND, Images
from kdiff_jax.data.listing import LeftOut, sort_out
from kdiff_jax.errors import ConfigError, DataError, NotGiven
from kdiff_jax.files import Unreadable

log = logging.getLogger(__name__)


def load(
    *,
    path: str | None,
    split: str,
    size: int | None,
    use_labels: bool = True,
    channels: int | None = None,
    background: str = BACKGROUND,
    at_once: bool = True,
) -> Images:
    """Images of a zip, sorted by name, with the labels of its dataset.json, if any.

    dataset.json is as `edm_labels.read` has it, beside the images or above them;
    without the file there are no labels. What is hidden or no image is left out, as by
    `folder`.

    Args:
        path: The .zip file.
        split: Only "train": another part is another file.
        size: Side in pixels that images are cropped and resized to; None keeps
            them, as the tool has made them.
        use_labels: False looks for no dataset.json.
        channels: 1 or 3, that images are converted to; None keeps them.
        background: Colour below transparent pixels: a name, or "#rrggbb".
        at_once: Decode a small set here; False decodes each image when it is read, and
            none before.

    Raises:
        NotGiven: If there is no path.
        ConfigError: If there is another split than "train", or no such look.
        DataError: If the file is missing or damaged, has no images or none of one
            size, or dataset.json does not fit them.

    Source: the format of github.com/NVlabs/edm, dataset_tool.py (format only).

    Examples:
        >>> import zipfile
        >>> from PIL import Image
        >>> from kdiff_jax.data import images
        >>> Image.new("RGB", (32, 32)).save("1.png")
        >>> with zipfile.ZipFile("mine.zip", "w") as archive:
        ...     archive.write("1.png")
        ...     archive.writestr("dataset.json", '{"labels": [["1.png", 0]]}')
        >>> found = images.load("edm_zip", path="mine.zip")
        >>> found.shape, found.labels.tolist()
        ((32, 32, 3), [0])
    """
    if path is None:
        raise NotGiven("data.path=None: edm_zip needs a file; set data.path=FILE.zip")
    if split != "train":
        raise ConfigError(
            f"data.split={split!r}: a zip has no splits; set data.path to the file of"
            " that split"
        )
    look = Look(size=size, channels=channels, background=background)
    if os.path.isdir(path):
        raise DataError(f"{path}: a folder, no file; set data.name=folder")
    try:
        archive = zips.open_archive(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; set data.path to a .zip file") from None
    except Unreadable as error:
        raise DataError(f"{path}: not a readable .zip file ({error})") from error
    for info in archive.infolist():
        _check(path, info)
    left_out = LeftOut()
    every = [name for name in archive.namelist() if not name.endswith("/")]
    names, others = sort_out(every, left_out)
    for name in others:  # a flipped bit in a name would hide an image
        _reading(path, name, zips.check_name, archive)
    if not names:
        raise DataError(f"{path}: no images in it; looked for {', '.join(FORMATS)}")
    listed = edm_labels.find(others, names, where=path) if use_labels else None
    for name in others:
        if name != listed:
            left_out.add("of other kinds", name)
    left_out.say(path)
    found = None
    if listed:
        where, base = f"{path}/{listed}", listed.removesuffix(edm_labels.NAME)
        content = _reading(path, listed, zips.content, archive)
        relative = [name.removeprefix(base) for name in names]
        found = edm_labels.read(content, relative, where=where)
    else:
        parts.check(path, parts.first_folders(names), use_labels=False)
    if (
        not listed
        and use_labels
        and len({name.rpartition("/")[0] for name in names}) > 1
    ):
        log.info(
            "%s: no dataset.json, so no labels: folders in it are no classes", path
        )
    lock = threading.Lock()  # ZipFile counts its readers without one

    def fetch(number):
        with lock:
            return names[number], _reading(path, names[number], zips.content, archive)

    if found is None:
        numbers, num_classes = np.zeros(len(names), np.int32), 0
    else:
        numbers, num_classes = labels.checked(found, where=f"{path}/{listed}")
    return from_encoded(
        fetch,
        numbers,
        num_classes=num_classes,
        name=f"edm_zip {path}",
        prefix=f"{path}/",
        look=look,
        at_once=at_once,
    )


def _check(path, info):
    """Nothing is unpacked, yet such names are a sign of an archive made to harm."""
    where = pathlib.PurePosixPath(info.filename.replace("\\", "/"))
    windows = pathlib.PureWindowsPath(info.filename)
    if where.is_absolute() or windows.drive or ".." in where.parts:
        raise DataError(f"{path}: {info.filename!r} points outside; not read")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{path}: {info.filename!r} is a symbolic link; not read")
    if info.file_size > MAX_BYTES:
        raise DataError(
            f"{path}: {info.filename!r} has {info.file_size} bytes, above the limit of"
            f" {MAX_BYTES}; not read"
        )


def _reading(path, name, function, archive):
    """`function` of `zips` on a member, what is wrong with it as DataError."""
    try:
        return function(archive, name)
    except Unreadable as error:
        raise DataError(
            f"{path}/{name}: damaged ({error}); copy or make the .zip again"
        ) from error
