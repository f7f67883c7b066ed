"""Digests of the leaves of a state, from the parts that each host holds.

They are those of whole leaves, however these lie on the devices, see `interop.steps`.
No host gathers what others hold: a CRC-32 is affine over GF(2), so that of a row is the
exclusive or of what its parts, in a row of zeros, contribute each. A host needs memory
for one row of one leaf.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdiff_jax.interop import steps as step_folders


def of_leaf(leaf, stored: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Digest of a leaf, with a checksum for each row; None for one not on this host.

    One that was stored with a checksum of the whole is compared as a whole.
    """
    if stored and "rows" not in stored:
        return step_folders.digest(leaf.addressable_data(0))
    parts = _parts(leaf)
    rows = [_checksum(leaf, parts.get(i, [])) for i in range(leaf.shape[0])]
    return step_folders.facts(leaf) | {"rows": rows}


def of_all_hosts(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Path -> digest with every row's checksum, from the hosts that hold the rows."""
    digests = {path: of_leaf(leaf) for path, leaf in leaves.items()}
    if jax.process_count() == 1:
        return digests
    rows = [row for found in digests.values() for row in found["rows"]]
    shares = [share for leaf in leaves.values() for share in _shares(leaf)]
    zeros = [crc for leaf in leaves.values() for crc in _of_zeros(leaf)]
    numbers = [-1 if row is None else row for row in rows]
    gathered = multihost_utils.process_allgather(_halves(numbers + shares))
    hosts = [_numbers(own) for own in gathered]
    whole = np.max([own[: len(rows)] for own in hosts], axis=0)
    joined = np.bitwise_xor.reduce([own[len(rows) :] for own in hosts], axis=0)
    known = iter(np.where(whole >= 0, whole, joined ^ np.array(zeros)).tolist())
    return {
        path: found | {"rows": [next(known) for _ in found["rows"]]}
        for path, found in digests.items()
    }


def is_shared(leaf) -> bool:
    """Whether hosts may hold parts of a row of which none has the whole."""
    own = leaf.sharding.shard_shape(leaf.shape)
    return jax.process_count() > 1 and own[1:] != leaf.shape[1:]


def contribution(shape: tuple[int, ...], dtype, parts) -> int:
    """What parts of a row add to its checksum, by exclusive or with that of zeros.

    Args:
        shape: Shape of the row.
        dtype: Type of the row.
        parts: (index into the row, array) of each.
    """
    row = np.zeros(shape, dtype)
    empty = step_folders.checksum(row)
    for index, part in parts:
        row[index] = part
    return step_folders.checksum(row) ^ empty


def _parts(leaf, *, first_copies: bool = False) -> dict[int, list]:
    """Row -> (index into it, array) of each of its parts on this host, once each.

    Args:
        leaf: Array of the devices of all hosts.
        first_copies: Take those alone that are the first of their copies on any host.
    """
    found: dict[int, dict] = {}
    for shard in leaf.addressable_shards:
        if first_copies and shard.replica_id:
            continue
        key = str(shard.index[1:])
        for i in range(shard.data.shape[0]):
            row = (shard.index[0].start or 0) + i
            part = (shard.index[1:], shard, i)
            found.setdefault(row, {}).setdefault(key, part)
    return {
        row: [(index, np.asarray(shard.data)[i]) for index, shard, i in parts.values()]
        for row, parts in found.items()
    }


def _checksum(leaf, parts) -> int | None:
    """The checksum of a row, if these are all of its parts."""
    shape = leaf.shape[1:]
    if sum(part.size for _, part in parts) != np.prod(shape, dtype=int) or not parts:
        return None
    if len(parts) == 1:
        return step_folders.checksum(parts[0][1])
    row = np.empty(shape, leaf.dtype)
    for index, part in parts:
        row[index] = part
    return step_folders.checksum(row)


def _shares(leaf) -> list[int]:
    """What this host contributes to the checksum of each row."""
    if not is_shared(leaf):
        return [0] * leaf.shape[0]
    parts = _parts(leaf, first_copies=True)
    return [
        contribution(leaf.shape[1:], leaf.dtype, parts.get(i, []))
        for i in range(leaf.shape[0])
    ]


def _of_zeros(leaf) -> list[int]:
    """The checksum of each row if it were zeros."""
    empty = np.zeros(leaf.shape[1:], leaf.dtype) if is_shared(leaf) else np.zeros(0)
    return [step_folders.checksum(empty)] * leaf.shape[0]


def _halves(numbers: list[int]) -> np.ndarray:
    """i32[n, 2]: JAX has no integers of 64 bits here."""
    return np.array([(n >> 16, n & 0xFFFF) for n in numbers], np.int32)


def _numbers(halves) -> np.ndarray:
    return halves[:, 0].astype(np.int64) << 16 | halves[:, 1].astype(np.int64)
