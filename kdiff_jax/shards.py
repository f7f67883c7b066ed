"""Arrays too large for memory, in shards that are each there wholly or not at all.

    FOLDER/shard-00007/NAME.npy        an array
    FOLDER/shard-00007/checksums.json  CRC-32 and size of each file, and facts

A shard is written under another name, and renamed when it is safe on disk. Killed at
any time, a run that makes shards leaves those that it finished.
"""

import io
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kdiff_jax import sealed
from kdiff_jax.errors import StorageError
from kdiff_jax.files import existing, json_text

CHECKSUMS = "checksums.json"
CHUNK = 2**22  # bytes read at once

Folder = str | os.PathLike


def path(folder: Folder, number: int) -> pathlib.Path:
    """The folder of one shard."""
    return pathlib.Path(folder) / f"shard-{number:05d}"


def check_room(folder: Folder, need: int, what: str, way_out: str) -> None:
    """To be called before anything is made; shards anywhere in the folder count.

    Args:
        folder: Folder, which need not exist.
        need: Bytes of all shards.
        what: What they hold, for the message.
        way_out: What can be done beside making room, for the message.

    Raises:
        StorageError: If they will not fit; it says the numbers.
    """
    folder = pathlib.Path(folder).absolute()
    there = sum(f.stat().st_size for f in folder.rglob("shard-*/*") if f.is_file())
    free = shutil.disk_usage(existing(folder)).free
    if need > there + free:
        raise StorageError(
            f"{folder}: {what} need {need / 1e9:.2f} GB; {there / 1e9:.2f} GB are there"
            f" and the disk has {free / 1e9:.2f} GB free; free some, {way_out}"
        )


def write(
    folder: Folder,
    number: int,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> None:
    """Writes one shard, or writes it anew.

    Args:
        folder: Folder to write to; made if need be.
        number: Number of the shard.
        arrays: Arrays of the shard, by name.
        facts: Plain JSON values that tell what the shard is; `missing` compares them.

    Raises:
        OSError: If the disk does not take it; a shard that was there is kept.
    """
    shard = path(folder, number)
    partial = shard.with_name(shard.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        partial.mkdir(parents=True)
        sums: dict[str, Any] = dict(facts)
        for name, array in arrays.items():
            array = np.ascontiguousarray(array)
            header = io.BytesIO()
            layout = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(header, layout)
            parts = header.getvalue(), array.reshape(-1).view(np.uint8).data
            sums[name] = _write(partial / f"{name}.npy", *parts)
        _write(partial / CHECKSUMS, json_text(sealed.seal(sums)).encode())
        _sync(partial)
        if shard.is_dir():
            shutil.rmtree(shard)
        shard.unlink(missing_ok=True)  # a file, where a folder belongs
        partial.rename(shard)
        _sync(shard.parent)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def missing(
    folder: Folder,
    names: Iterable[str],
    facts: Sequence[Mapping[str, Any]],
    numbers: Iterable[int] | None = None,
) -> list[int]:
    """The shards that are not there, damaged, or others: every byte is read and summed.

    Args:
        folder: Folder of all shards.
        names: Names of the arrays of each shard.
        facts: For each shard, the facts that must be as written; a shard may have more.
        numbers: Numbers of the shards to check, so that hosts can share the work; None
            for all.
    """
    numbers = range(len(facts)) if numbers is None else list(numbers)
    names = tuple(names)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        good = pool.map(lambda k: _is_intact(path(folder, k), names, facts[k]), numbers)
        return [k for k, is_good in zip(numbers, good, strict=True) if not is_good]


def open_maps(folder: Folder, number: int, names: Iterable[str]) -> list[np.ndarray]:
    """The arrays of a shard, mapped into memory, not read and not verified.

    Raises:
        sealed.Damaged: If one is missing, or obviously not whole.
    """
    shard = path(folder, number)
    try:
        return [np.load(shard / f"{name}.npy", mmap_mode="r") for name in names]
    except Exception as error:  # a header of nonsense is parsed as Python is
        raise sealed.Damaged(f"{shard}: missing or damaged") from error


def _is_intact(shard, names, facts) -> bool:
    try:
        sums = sealed.parse((shard / CHECKSUMS).read_bytes())
        # A version before may have written fewer facts.
        if any(sums.get(name, value) != value for name, value in facts.items()):
            return False
        # CRC-32 sees every single flipped bit, at the speed of the disk.
        return all(_sum_of_file(shard / f"{name}.npy") == sums[name] for name in names)
    except (OSError, sealed.Damaged, KeyError):
        return False


def _sum_of_file(file):
    crc = size = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"crc32": crc, "bytes": size}


def _write(file, *parts):
    """Writes and syncs; returns the sums of what was meant, not of what arrived."""
    crc = size = 0
    with open(file, "wb") as stream:
        for part in parts:
            stream.write(part)
            crc, size = zlib.crc32(part, crc), size + len(part)
        stream.flush()
        os.fsync(stream.fileno())
    return {"crc32": crc, "bytes": size}


def _sync(folder):
    """Makes the names in a folder as durable as the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
