"""Which files of a folder or an archive are images of a set; the others are counted."""

import logging
import pathlib
from collections.abc import Iterable

from kdiff_jax.data.encoded import SUFFIXES

log = logging.getLogger(__name__)

# What systems, servers and editors leave beside images, in small letters; all that
# begins with a point is theirs, too.
HIDDEN = frozenset(
    "#recycle #snapshot $recycle.bin @eadir @recently-snapshot @recycle __macosx"
    " __pycache__ desktop.ini ehthumbs.db lost+found thumbs.db".split()
    + ["system volume information"]
)


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name (without path) are skipped."""
    return name.startswith(".") or name.lower() in HIDDEN


def is_image(name: str) -> bool:
    """Whether the name has the suffix of an image format that is read."""
    return pathlib.PurePosixPath(name).suffix.lower() in SUFFIXES


class LeftOut:
    """Files and folders that a set leaves out, by reason, for one line of the log."""

    def __init__(self):
        self._names: dict[str, set[str]] = {}

    def add(self, why: str, name: str) -> None:
        """Counts a file or folder; `why` follows its number, as in "3 hidden"."""
        self._names.setdefault(why, set()).add(name)

    def say(self, where: str) -> None:
        """Logs one line, if anything was left out."""
        parts = []
        for why, names in self._names.items():
            more = ", ..." if len(names) > 3 else ""
            parts.append(f"{len(names)} {why} ({', '.join(sorted(names)[:3])}{more})")
        if parts:
            log.info("%s: left out %s", where, "; ".join(parts))


def sort_out(names: Iterable[str], left_out: LeftOut) -> tuple[list[str], list[str]]:
    """Paths of images, sorted, and those of other files that are not hidden.

    Args:
        names: Paths of files, from the folder or archive.
        left_out: Is told of what is hidden.
    """
    images, others = [], []
    for name in names:
        parts = pathlib.PurePosixPath(name).parts
        hidden = [i for i, part in enumerate(parts) if is_hidden(part)]
        if hidden:
            left_out.add("hidden", "/".join(parts[: hidden[0] + 1]))
        else:
            (images if is_image(name) else others).append(name)
    return sorted(images), sorted(others)
