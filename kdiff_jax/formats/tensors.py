"""Safetensors: read lazily with the library, written leaf by leaf.

The library writes from memory alone: all leaves at once. A converted checkpoint is
larger than that allows, so the writer here holds one leaf, and the library reads it.
"""

import functools
import hashlib
import json
import math
import os
import pathlib
import platform
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import raw
from kdiff_jax.formats.lazy import Lazy

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
MAX_ARRAYS = 50_000  # the largest public networks have about five thousand
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path) -> tuple[dict[str, Lazy], dict[str, str]]:
    """Returns ({name: array}, metadata) of a safetensors file.

    Raises:
        CheckpointError: If it is no sound safetensors file. One line.
    """
    try:
        file = safetensors.safe_open(path, framework="numpy")
        if len(file.keys()) > MAX_ARRAYS:
            raise CheckpointError(
                f"it has {len(file.keys())} arrays, and no network has over"
                f" {MAX_ARRAYS}; it is not one of weights"
            )
        _check_names(path)
        return _leaves(file), dict(file.metadata() or {})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (safetensors.SafetensorError, OSError) as error:
        why = raw.shown(" ".join(str(error).split()))
        raise CheckpointError(
            f"{path}: {why}; it is no sound safetensors file: copy or download it again"
        ) from error


def _leaves(file) -> dict[str, Lazy]:
    leaves = {}
    for name in file.keys():
        part = file.get_slice(name)
        code = part.get_dtype()
        if code not in DTYPES:
            raise CheckpointError(
                f"{raw.shown(name)} has type {code}, which is not read; save it as F32"
            )
        shape = raw.checked_shape(part.get_shape(), DTYPES[code])
        leaves[name] = Lazy(shape, DTYPES[code], functools.partial(_read, file, name))
    return leaves


def _check_names(path) -> None:
    """Refuses a name that is there twice, of which the library takes the last."""

    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise CheckpointError("a name is there twice; save it again")
        return dict(pairs)

    with pathlib.Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        json.loads(file.read(size), object_pairs_hook=unique)


def _read(file, name: str) -> np.ndarray:
    return file.get_tensor(name)


def write(path, leaves: Mapping[str, Lazy], metadata: Mapping[str, str] | None = None):
    """Writes a safetensors file, one leaf in memory at a time; returns its sha256.

    The file appears at `path` when it is whole.

    Raises:
        CheckpointError: If a leaf has a type that the format lacks.
    """
    path = pathlib.Path(path)
    # The widest types first keeps every leaf aligned, and is how the library sorts.
    names = sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name))
    # One name a process, see `files.write_atomically`.
    owner = f"{platform.node()}.{os.getpid()}"
    partial = path.with_name(f"{path.name}.{owner}.partial")
    digest = hashlib.sha256()
    try:
        with open(partial, "wb") as file:

            def put(data):
                file.write(data)
                digest.update(data)

            put(_header(names, leaves, metadata))
            for name in names:
                put(_bytes(name, leaves[name]))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


def _header(names, leaves, metadata) -> bytes:
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    end = 0
    for name in names:
        shape, dtype, _ = leaves[name]
        if (code := NAMES.get(dtype.newbyteorder("="))) is None:
            raise CheckpointError(
                f"{name} is {dtype}, which safetensors lacks; convert it to float32"
            )
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entry = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(name: str, leaf: Lazy) -> memoryview:
    array = leaf.read()
    if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
        raise CheckpointError(
            f"{name} is {array.dtype}{list(array.shape)}, not {leaf.dtype}"
            f"{list(leaf.shape)} as announced; this is a bug, please report it"
        )
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
