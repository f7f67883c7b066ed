"""Files that appear whole or not at all, and JSON without NaN."""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file beside its place and moves it there: a reader never sees half."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name a process: two hosts of a job may write the same report.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
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
