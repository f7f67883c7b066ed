"""Folders named after the parts of a set, as train/ and val/: those are no classes."""

import logging
import re
from collections.abc import Collection, Iterable

from kdiff_jax.errors import DataError

log = logging.getLogger(__name__)

# Also those with a year, as train2017.
_PART = re.compile(
    r"(?:train|training|val|valid|validation|dev|eval|test|testing)[-_]?\d*", re.I
)


def check(path, folders: Collection[str], *, use_labels: bool) -> None:
    """Refuses to take the parts of a set for classes.

    Args:
        path: Where the set lies.
        folders: The first-level folders in it that hold images.
        use_labels: Whether a folder would be a class; without, a warning says that all
            parts are read.

    Raises:
        DataError: Names the part to take.
    """
    parts = sorted(name for name in folders if _PART.fullmatch(name))
    if len(parts) < 2:
        return
    training = (name for name in parts if name.lower().startswith("train"))
    one, found = next(training, parts[0]), ", ".join(parts)
    if use_labels:
        raise DataError(
            f"data.path={path}: its folders {found} are the parts of a set, not its"
            f" classes; set --config.data.path={path}/{one}, or"
            " --config.data.use_labels=False to read all of them without labels"
        )
    log.warning(
        "%s: the images of its parts %s are read as one set; %s/%s is one of them",
        *(path, found, path, one),
    )


def first_folders(names: Iterable[str]) -> set[str]:
    """The first-level folders of paths in a set."""
    return {name.partition("/")[0] for name in names if "/" in name}
