"""Files that appear whole or not at all, files to be read, and JSON without NaN."""

import contextlib
import errno
import json
import math
import os
import pathlib
import platform
import stat
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


def write_atomically(
    path: str | os.PathLike, data: bytes | memoryview | str | Callable[[BinaryIO], None]
) -> None:
    """Writes a file beside its place and moves it there: a reader never sees half.

    Args:
        path: Its place.
        data: The content, or a function that writes it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name a process: two hosts of a job may write the same report, and in their
    # containers have the same number.
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def json_text(tree: Any, *, indent: int | None = None) -> str:
    """JSON that every parser reads: NaN and infinity become null, arrays lists."""
    return json.dumps(_plain(tree), indent=indent, allow_nan=False)


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    array = np.asarray(value)  # numpy and JAX scalars and arrays
    if array.dtype == object:
        raise TypeError(f"value={value!r}: JSON holds numbers, texts, lists and dicts")
    # bfloat16 knows no tolist of its own.
    exact = array.dtype.kind in "biufU"
    return _plain((array if exact else array.astype(np.float64)).tolist())


def probe(path: pathlib.Path) -> None:
    """Raises OSError if nothing can be made at the path. Leaves nothing."""
    above = existing(path.parent)
    with tempfile.TemporaryFile(dir=above) as probe:
        probe.write(b"\0")
        probe.flush()
    # As files in the making are called; a name that is too long says so.
    partial = f".{path.name}.{os.getpid()}.partial"
    for name in (*path.parent.relative_to(above).parts, partial):
        with contextlib.suppress(FileNotFoundError):
            os.lstat(above / name)


def existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or the nearest folder above it that is there."""
    return next((p for p in (path, *path.parents) if os.path.lexists(p)), path)


class Unreadable(ValueError):
    """Why a file cannot be read, in one line without its name."""


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading that is a file and nothing else.

    A pipe would block for ever, and a device may have no end.

    Raises:
        OSError: If it cannot be opened, or is a pipe, a socket, a device or a folder.
    """
    # Asked by name first, as opening a device may do something.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    stream = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return stream


def read_regular(path: str | os.PathLike, *, max_bytes: int) -> bytes:
    """The content of a file, see `open_regular`.

    Raises:
        OSError: If it cannot be read.
        Unreadable: If it is larger than `max_bytes`.
    """
    with open_regular(path) as stream:
        # No buffer of the limit for each small file; and a file of /proc says 0.
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(min(size, max_bytes) + 1)
        if len(content) > size:
            content += stream.read(max_bytes + 1 - len(content))
    if len(content) > max_bytes:
        raise Unreadable(f"larger than the limit of {max_bytes} bytes")
    return content
