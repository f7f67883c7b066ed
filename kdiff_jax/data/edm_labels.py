"""dataset.json, the labels that EDM's dataset tool puts beside its images."""

import collections
import json
import pathlib
from collections.abc import Sequence

from kdiff_jax.data.labels import WAY_OUT
from kdiff_jax.errors import DataError

NAME = "dataset.json"


def find(names: Sequence[str], images: Sequence[str], *, where: str) -> str | None:
    """Path of the dataset.json that lies above all images; None if there is none.

    Args:
        names: Paths of all files that are not hidden.
        images: Paths of the images among them.
        where: The folder or archive, for messages.

    Raises:
        DataError: If there are several, or some images lie elsewhere.
    """
    found = [name for name in names if pathlib.PurePosixPath(name).name == NAME]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(
            f"{where}: {len(found)} files {NAME} ({found[0]}, {found[1]}); leave one,"
            " above all images: its labels are taken"
        )
    base = found[0].removesuffix(NAME)
    outside = [name for name in images if not name.startswith(base)]
    if outside:
        raise DataError(
            f"{where}: {outside[0]!r} lies beside the folder of {found[0]!r}; put"
            f" {NAME} above all images, or rename it if it has no labels of theirs"
        )
    return found[0]


def read(content: bytes, images: Sequence[str], *, where: str) -> list[int] | None:
    """The label of each image; None if the file says that there are none.

    Args:
        content: {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}.
        images: Their paths, from the folder of the file.
        where: The file, for messages.

    Raises:
        DataError: If it is anything else, or does not list exactly the images.
    """
    try:
        listed = json.loads(content)["labels"]
        pairs = None if listed is None else [(str(n), label) for n, label in listed]
    except Exception as error:  # a deep one is a RecursionError
        raise DataError(
            f'{where}: must be {{"labels": [[name, label], ...]}} or null; make it'
            " again, or rename it if it has no labels"
        ) from error
    if pairs is None:
        return None
    for name, label in pairs:
        if type(label) is not int:
            raise DataError(
                f"{where}: the label of {name!r} is {str(label)[:40]}; every image must"
                f" have an integer: {WAY_OUT}"
            )
    count = collections.Counter(name for name, _ in pairs)
    labels = dict(pairs)
    have = set(images)
    wrong = [
        ("are listed twice", [n for n, times in count.items() if times > 1]),
        ("have no label", [name for name in images if name not in labels]),
        ("are listed and not there", [name for name in labels if name not in have]),
    ]
    for what, names in wrong:
        if names:
            raise DataError(
                f"{where}: {len(names)} images {what} (the first is {names[0]!r});"
                f" copy the set again, or {WAY_OUT}"
            )
    return [labels[name] for name in images]
