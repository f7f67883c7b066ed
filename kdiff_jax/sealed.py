"""Files that are read back hold a digest of what was written, and it is checked.

JSON holds it as the key `digest`, named arrays as an entry of that name; that of a
single array is kept elsewhere. A file of a version before has none: it is read, and one
line of the log says that it is not verified. For large arrays see `shards`.
"""

import functools
import hashlib
import io
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import UserError
from kdiff_jax.files import json_text, write_atomically

log = logging.getLogger(__name__)

KEY, KIND = "digest", "sha256:"
Path = str | os.PathLike


class Damaged(ValueError):
    """What is there is not what was written."""


def write_json(path: Path, tree: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Writes a dict with its digest, whole or not at all; NaN becomes null."""
    write_atomically(path, json_text(seal(tree), indent=indent) + "\n")


def read_json(path: Path, *, error: type[UserError], way_out: str) -> dict[str, Any]:
    """The dict that `write_json` was given, in plain JSON values.

    Args:
        path: The file.
        error: What to raise if it is missing or damaged.
        way_out: What to do then, for the message.
    """
    path = pathlib.Path(path)
    try:
        return parse(path.read_bytes(), path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise error(f"{path}: is missing; {way_out}") from None
    except Damaged as damage:
        raise error(f"{path}: is damaged ({damage}); {way_out}") from None


def parse(text: bytes | str, where: Path | None = None) -> dict[str, Any]:
    """A dict from JSON with its digest checked and taken out.

    Args:
        text: The JSON.
        where: The file, which the log names if there is no digest to check; None says
            nothing.

    Raises:
        Damaged: If it is no JSON, no dict, or another than was written.
    """
    try:
        tree = json.loads(text, parse_constant=_no_number)
        return unseal(tree, where)
    except (RecursionError, ValueError) as error:  # also of bytes that are no text
        raise Damaged(_short(error)) from None


def seal(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The dict in plain JSON values, with its digest."""
    plain = json.loads(json_text({k: v for k, v in tree.items() if k != KEY}))
    return {**plain, KEY: _digest_of_tree(plain)}


def unseal(tree: Any, where: Path | None = None) -> dict[str, Any]:
    """What `seal` was given; see `parse`.

    Raises:
        Damaged: If it is no dict, or another than was written.
    """
    if not isinstance(tree, dict):
        raise Damaged(f"a {type(tree).__name__}, no object with names")
    rest = {name: value for name, value in tree.items() if name != KEY}
    found = _digest_of_tree(rest)
    if _is_sealed(tree) and tree.get(KEY) != found:
        raise Damaged("its digest is another, so it was changed after it was written")
    if not _is_sealed(tree) and where is not None:
        _tell_unsealed(os.fspath(where))
    return rest


def write_array(path: Path, array: np.ndarray) -> str:
    """Writes an .npy file, whole or not at all; returns its digest, to be kept."""
    blob = io.BytesIO()
    np.save(blob, array, allow_pickle=False)
    write_atomically(path, blob.getvalue())
    return KIND + hashlib.sha256(blob.getvalue()).hexdigest()


def read_array(
    path: Path, digest: str | None, *, error: type[UserError], way_out: str
) -> np.ndarray:
    """The array that `write_array` was given.

    Args:
        path: The file.
        digest: What it returned; None of a version before.
        error: What to raise if the file is missing or damaged.
        way_out: What to do then, for the message.
    """
    path = pathlib.Path(path)
    try:
        blob = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise error(f"{path}: is missing; {way_out}") from None
    found = KIND + hashlib.sha256(blob).hexdigest()
    if digest not in (None, found):
        raise error(f"{path}: is damaged (its digest is another); {way_out}")
    try:
        return np.load(io.BytesIO(blob), allow_pickle=False)
    except Exception as damage:  # NumPy parses a header of nonsense as it parses Python
        raise error(f"{path}: is damaged ({_short(damage)}); {way_out}") from None


def seal_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays with their digest as an entry, to be written as an .npz file."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    return {**arrays, KEY: np.asarray(digest_of(arrays))}


def unseal_arrays(
    arrays: Mapping[str, np.ndarray], where: Path | None = None
) -> dict[str, np.ndarray]:
    """What `seal_arrays` was given.

    Raises:
        Damaged: If they are others than were written.
    """
    rest = {name: array for name, array in arrays.items() if name != KEY}
    texts = {name: str(a) for name, a in arrays.items() if a.dtype.kind == "U"}
    if _is_sealed({**dict.fromkeys(arrays), **texts}):
        if texts.get(KEY) != digest_of(rest):
            raise Damaged("its digest is another, so it was changed since")
    elif where is not None:
        _tell_unsealed(os.fspath(where))
    return rest


def digest_of(arrays: Mapping[str, Any]) -> str:
    """Digest of names, types, shapes and values, in whatever order they come."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return KIND + found.hexdigest()


def _digest_of_tree(tree) -> str:
    try:
        # NaN and infinity are no JSON: a number that grew beyond 1e308 is refused.
        text = json.dumps(tree, sort_keys=True, allow_nan=False)
    except (RecursionError, ValueError) as error:
        raise Damaged(_short(error)) from None
    return KIND + hashlib.sha256(text.encode()).hexdigest()


def _is_sealed(tree: Mapping[str, Any]) -> bool:
    """Whether a digest was written, also if the bit that flipped is in its name."""
    texts = (value for value in tree.values() if isinstance(value, str))
    return KEY in tree or any(text.startswith(KIND) for text in texts)


@functools.cache  # once a file
def _tell_unsealed(where: str) -> None:
    log.info("%s: is of a version before and has no digest; it is not verified", where)


def _no_number(name: str):
    raise ValueError(f"{name} is no JSON")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
