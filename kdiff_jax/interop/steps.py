"""The steps of a stage's checkpoints, and the digests that each of them holds.

    CHECKPOINTS/12/state/          the leaves, by Orbax
    CHECKPOINTS/12/meta/metadata   {"step", "leaves": {path: digest}}, sealed

A digest is the shape, the dtype and the CRC-32 of each row of a leaf, whose first axis
is that of the students. The first checkpoints of one student have no such axis, and the
CRC-32 of whole leaves.
"""

import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kdiff_jax import sealed

Digest = Mapping[str, Any]

VERSION = 2


class Meta(NamedTuple):
    """What a step says of itself.

    Attributes:
        leaves: Path -> digest.
        version: How the leaves are named, see `stored_name`.
        is_sealed: Whether these digests have been verified by one of their own; those
            of a version before cannot be.
    """

    leaves: dict[str, Digest]
    is_sealed: bool
    version: int = 1


def of(folder: pathlib.Path) -> list[int]:
    """The steps in a folder of checkpoints, the newest first.

    What is no step's name as we write it, such as "012" or "5x", is somebody else's.
    """
    if not folder.is_dir():
        return []
    found = [number(path) for path in folder.iterdir()]
    return sorted((step for step in found if step is not None), reverse=True)


def number(path: pathlib.Path) -> int | None:
    """The step whose folder this is, by its name; None of any other."""
    name = path.name
    is_step = name.isascii() and name.isdigit() and name == name.lstrip("0")
    return int(name) if (is_step or name == "0") and len(name) < 19 else None


def seal(step: int, leaves: Mapping[str, Digest]) -> dict[str, Any]:
    """The content of a step's metadata."""
    return sealed.seal({"step": step, "version": VERSION, "leaves": leaves})


def read(folder: pathlib.Path) -> Meta:
    """The metadata of one step.

    Raises:
        sealed.Damaged: If it is missing, or not as it was written.
    """
    try:
        text = (folder / "meta" / "metadata").read_bytes()
    except OSError as error:
        raise sealed.Damaged(f"its metadata: {error.strerror}") from None
    tree = sealed.parse(text)
    step, leaves = tree.get("step"), tree.get("leaves")
    if step != number(folder):
        raise sealed.Damaged(f"it says step {str(step)[:40]}")
    if not isinstance(leaves, dict) or not all(map(_is_digest, leaves.values())):
        raise sealed.Damaged("its metadata holds no digests of leaves")
    is_sealed = f'"{sealed.KEY}"'.encode() in text
    version = tree.get("version", 1)
    if version not in (1, VERSION):
        raise sealed.Damaged(
            f"it is of version {str(version)[:20]}, and this is {VERSION}"
        )
    return Meta(leaves, is_sealed, version)


def stored_name(path: str, version: int) -> str:
    """The name that a leaf of today has in a checkpoint of this version.

    The first version knew one moving average of a role, which had no name.
    """
    return path if version > 1 else re.sub(r"^(nets/[^/]+/ema)/ema/", r"\1/", path)


def without_students(leaves: Mapping[str, Digest]) -> bool:
    """Whether these are the leaves of one student, without an axis of students."""
    return leaves.get("step", {}).get("shape") == []


def digest(leaf, *, by_rows: bool = False) -> dict[str, Any]:
    """Digest of a leaf of which every row is on this host."""
    if by_rows:
        return facts(leaf) | {"rows": [checksum(row) for row in leaf]}
    return facts(leaf) | {"crc32": checksum(leaf)}


def facts(leaf) -> dict[str, Any]:
    """Shape and dtype, the part of a digest that needs no values."""
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def checksum(array) -> int:
    """CRC-32 of the bytes of an array."""
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def differs(here: Digest, stored: Digest) -> bool:
    """Whether a leaf is another than was written; rows that are None are not here."""
    if "rows" not in here:
        return here["crc32"] != stored.get("crc32")
    rows = stored.get("rows")
    if rows is None or len(rows) != len(here["rows"]):
        return True
    pairs = zip(here["rows"], rows, strict=True)
    return any(a is not None and a != b for a, b in pairs)


def _is_digest(value) -> bool:
    if not isinstance(value, dict):
        return False
    shape, rows = value.get("shape"), value.get("rows", [value.get("crc32")])
    if not isinstance(shape, list) or not isinstance(rows, list):
        return False
    whole = all(type(n) is int for n in (*shape, *rows))
    return whole and isinstance(value.get("dtype"), str)
