"""Reads Flax's msgpack checkpoints: nested dicts, arrays as an extension type."""

import math
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from kdiff_jax import arrays
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import raw
from kdiff_jax.formats.lazy import Lazy

ARRAY, COMPLEX, SCALAR = 1, 2, 3  # flax.serialization's extension types
CHUNKED = "__msgpack_chunked_array__"  # arrays over 1 GiB are cut into pieces
MAX_DEPTH = 100
MAX_NODES = 200_000
MAX_MAP = 50_000
MAX_LIST = 1024  # Flax writes lists as dicts; msgpack reserves what a list claims

DTYPES = {
    name: np.dtype(name)
    for name in "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16"
    " uint8 bool complex64 complex128".split()
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def load(data) -> dict[str, Any]:
    """The tree in a Flax checkpoint, with `Lazy` arrays.

    Args:
        data: The file, as bytes or another buffer of bytes.

    Raises:
        CheckpointError: If it is damaged or holds anything else. One line.
    """
    there, num_nodes = arrays.memory(), 0
    if len(data) > there:
        raise CheckpointError(
            f"its {len(data) / 1e9:.4g} GB are read whole, and there are"
            f" {there / 1e9:.4g} GB of memory; convert it on a larger machine"
        )

    def counted(node):
        nonlocal num_nodes
        num_nodes += 1 + len(node)
        if num_nodes > MAX_NODES:
            raise CheckpointError(f"it has over {MAX_NODES} entries")
        return node

    hooks = {"ext_hook": _extension, "object_hook": counted, "list_hook": counted}
    value = _joined(_unpack(data, MAX_LIST, **hooks), 0)
    if type(value) is not dict:
        raise CheckpointError(
            f"it holds a {type(value).__name__}, not a dict of arrays"
        )
    return value


def _unpack(data, max_list: int, **hooks) -> Any:
    size = len(data)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=size,
            max_bin_len=size,
            max_ext_len=size,
            max_array_len=max_list,
            max_map_len=MAX_MAP,
            **hooks,
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"its msgpack is damaged ({raw.shown(str(error))}); copy or download it"
            " again"
        ) from error


def _extension(code: int, data: bytes) -> Any:
    if code == ARRAY:
        return _array(data)
    if code == SCALAR:
        scalar = _array(data)
        if scalar.shape != ():
            raise CheckpointError("a number has the shape of an array")
        return scalar.read().item()
    if code == COMPLEX:
        parts = _unpack(data, 2)
        if type(parts) is list and [type(x) for x in parts] == [float, float]:
            return complex(*parts)
    raise CheckpointError(f"it holds an extension {code} that Flax does not write")


def _array(data: bytes) -> Lazy:
    parts = _unpack(data, raw.MAX_DIMS)
    if type(parts) is not list or len(parts) != 3 or type(parts[2]) is not bytes:
        raise CheckpointError("an array is not a shape, a type and bytes")
    shape, name, content = parts
    if type(name) is not str or name not in DTYPES:
        raise CheckpointError(f"an array has the type {raw.shown(name)}")
    return raw.dense(content, DTYPES[name], shape)


def _joined(node: Any, depth: int) -> Any:
    """The tree with arrays in one piece again; what is neither tree nor number is
    refused."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"it is nested over {MAX_DEPTH} deep")
    if type(node) is dict:
        if any(type(key) is not str for key in node):
            raise CheckpointError("a name in it is not a string")
        tree = {key: _joined(value, depth + 1) for key, value in node.items()}
        return _chunked(tree) if CHUNKED in tree else tree
    if type(node) is list:
        return [_joined(value, depth + 1) for value in node]
    if type(node) in (Lazy, str, bytes, int, float, complex, bool, type(None)):
        return node
    raise CheckpointError(f"it holds a {type(node).__name__}")


def _chunked(node: dict[str, Any]) -> Lazy:
    shape, chunks = _numbered(node.get("shape")), _numbered(node.get("chunks"))
    natural = all(type(n) is int and n >= 0 for n in shape)
    if not natural or not chunks or any(type(c) is not Lazy for c in chunks):
        raise CheckpointError("an array in pieces has no shape or no pieces")
    dtype = chunks[0].dtype
    size = sum(math.prod(c.shape) for c in chunks)
    if any(c.dtype != dtype for c in chunks) or math.prod(shape) != size:
        raise CheckpointError("the pieces of an array do not fit together")

    def read():
        whole, at = np.empty(size, dtype), 0
        for chunk in chunks:
            stop = at + math.prod(chunk.shape)
            whole[at:stop] = chunk.read().reshape(-1)
            at = stop
        return whole.reshape(shape)

    return Lazy(tuple(shape), dtype, read)


def _numbered(node: Any) -> list[Any]:
    """The values of {"0": ..., "1": ...}, in order."""
    if type(node) is not dict or set(node) != {str(i) for i in range(len(node))}:
        raise CheckpointError("the pieces of an array are not numbered")
    return [node[str(i)] for i in range(len(node))]
