"""A folder of images, searched recursively."""

import logging
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from kdiff_jax.data import edm_labels, labels, parts
from kdiff_jax.data.encoded import FORMATS, MAX_BYTES, Look, from_encoded
from kdiff_jax.data.images import BACKGROUND, Images
from kdiff_jax.data.listing import LeftOut, is_hidden, is_image, sort_out
from kdiff_jax.errors import ConfigError, DataError, NotGiven
from kdiff_jax.files import Unreadable, read_regular

log = logging.getLogger(__name__)

FILES = {".npz": "npz", ".zip": "edm_zip"}  # what reads them


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
    """All files under `path` of `encoded.FORMATS`, sorted by their names.

    The first-level folder of an image is its class, in alphabetic order; one without
    images is a class, too. Images that all lie in `path` itself, or in its only folder,
    have no labels. Parts of a set, as train/ and val/, are no classes and refused, see
    `parts.check`. A dataset.json above all images, as `edm_labels.read` has it, comes
    first. Links are followed, each folder once in a class. What is hidden (see
    `listing.HIDDEN`) or no image is left out, and counted in a line of the log.

    Args:
        path: The folder.
        split: Only "train": another part is another folder.
        size: Side in pixels that images are cropped and resized to; None needs
            images that are all of one size.
        use_labels: False takes images from anywhere in the folder.
        channels: 1 or 3, that images are converted to; None keeps them.
        background: Colour below transparent pixels: a name, or "#rrggbb".
        at_once: Decode a small set here; False decodes each image when it is read, and
            none before.

    Raises:
        NotGiven: If there is no path.
        ConfigError: If there is another split than "train", or no such look.
        DataError: If the folder is missing, has no images, or classes that are not
            clear; or if an image cannot be read.

    Examples:
        >>> import pathlib
        >>> from PIL import Image
        >>> from kdiff_jax.data import images
        >>> for kind in ("cat", "dog"):
        ...     pathlib.Path("pets", kind).mkdir(parents=True)
        ...     Image.new("RGB", (40, 30)).save(f"pets/{kind}/1.png")
        >>> found = images.load("folder", path="pets", size=16)
        >>> found.shape, found.labels.tolist()
        ((16, 16, 3), [0, 1])
    """
    if path is None:
        raise NotGiven("data.path=None: folder needs one; set data.path=FOLDER")
    if split != "train":
        raise ConfigError(
            f"data.split={split!r}: a folder has no splits; set data.path to the"
            " folder of that split"
        )
    look = Look(size=size, channels=channels, background=background)
    return read(path, look, use_labels=use_labels, at_once=at_once)


def read(
    path: str, look: Look, *, use_labels: bool = False, at_once: bool = True
) -> Images:
    """The same of any look at the images; see `load`."""
    root = pathlib.Path(path)
    if root.is_file() and (kind := FILES.get(root.suffix.lower())):
        raise DataError(f"{path}: a file, no folder; set data.name={kind}")
    if not root.is_dir():
        raise DataError(f"{path}: no such folder; set data.path to a folder of images")
    left_out = LeftOut()
    found, classes = search(str(root), left_out)
    names, others = sort_out(found, left_out)
    if not names:
        raise DataError(f"{path}: no images in it; looked for {', '.join(FORMATS)}")
    listed = edm_labels.find(others, names, where=path) if use_labels else None
    for name in others:
        if name != listed:
            left_out.add("of other kinds", name)
    left_out.say(path)
    if not listed:
        parts.check(path, parts.first_folders(names), use_labels=use_labels)
    numbers, num_classes = np.zeros(len(names), np.int32), 0
    if listed:
        numbers, num_classes = _listed(root, listed, names)
    elif use_labels:
        numbers, num_classes = _by_folder(path, names, classes)
    return from_encoded(
        lambda number: (names[number], content(root / names[number])),
        numbers,
        num_classes=num_classes,
        name=f"folder {path}",
        prefix=f"{root}/",
        look=look,
        at_once=at_once,
    )


def _by_folder(path, names, classes):
    here = [name for name in names if "/" not in name]
    if here and len(here) < len(names):
        raise DataError(
            f"{path}: images in it and in folders of it ({here[0]},"
            f" {next(n for n in names if '/' in n)}); put each into the folder of its"
            " class, or set --config.data.use_labels=False"
        )
    if here or len(classes) < 2:
        if all(name.count("/") > 1 for name in names):
            (only,) = parts.first_folders(names)
            log.info(
                "%s: all images lie in its only folder, %s, so that they have no"
                " labels; data.path=%s/%s takes the folders in there as classes",
                *(path, only, path, only),
            )
        return np.zeros(len(names), np.int32), 0
    number = {name: i for i, name in enumerate(classes)}
    found = np.array([number[name.split("/")[0]] for name in names])
    return labels.checked(found, where=path, num_classes=len(classes), names=classes)


def _listed(root, listed, names):
    base = listed.removesuffix(edm_labels.NAME)
    where, relative = str(root / listed), [name.removeprefix(base) for name in names]
    found = edm_labels.read(content(root / listed), relative, where=where)
    if found is None:
        return np.zeros(len(names), np.int32), 0
    return labels.checked(found, where=where)


def search(root: str, left_out: LeftOut) -> tuple[list[str], list[str]]:
    """(paths of all files from the root, names of its folders), neither hidden."""
    # A link to where the search came from would lead round and round.
    above = {_identity(p) for p in (root, *pathlib.Path(root).resolve().parents)}
    files, classes = [], []
    for entry in _entries(root, "", left_out):
        if not entry.is_dir():
            files.append(entry.name)
        elif _identity(entry.path) in above:
            left_out.add("links that lead back", entry.name)
        else:
            classes.append(entry.name)
            files += _files_of(entry.path, f"{entry.name}/", set(above), left_out)
    return files, classes


def _files_of(top: str, prefix: str, seen: set, left_out: LeftOut) -> Iterator[str]:
    folders, links = [(top, prefix)], []
    while folders or links:
        # Links last: a folder keeps its own place if it has one.
        folder, prefix = folders.pop() if folders else links.pop()
        if (identity := _identity(folder)) in seen:
            left_out.add("links to what is read already", prefix.rstrip("/"))
            continue
        seen.add(identity)
        for entry in _entries(folder, prefix, left_out):
            if entry.is_dir():
                where = links if entry.is_symlink() else folders
                where.append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name


def _entries(folder: str, prefix: str, left_out: LeftOut) -> list[os.DirEntry]:
    """What a folder holds, by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    shown = []
    for entry in found:
        if is_hidden(entry.name):
            left_out.add("hidden", prefix + entry.name)
            continue
        # A name without a suffix may be that of a class.
        counts = is_image(entry.name) or not pathlib.PurePath(entry.name).suffix
        if counts and entry.is_symlink() and not os.path.exists(entry.path):
            target = os.readlink(entry.path)
            raise DataError(
                f"{entry.path}: a link to {target}, which is not there; mend or delete"
                " it"
            )
        if is_image(entry.name) and not (entry.is_file() or entry.is_dir()):
            raise DataError(f"{entry.path}: no regular file; delete it")
        shown.append(entry)
    return shown


def _identity(folder) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def content(file: pathlib.Path) -> bytes:
    try:
        return read_regular(file, max_bytes=MAX_BYTES)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except Unreadable as error:
        raise DataError(f"{file}: {error}; delete it") from error
