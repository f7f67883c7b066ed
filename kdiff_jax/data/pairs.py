"""Pairs of a teacher's input noise and its sample, on disk, made in resumable shards.

    FOLDER/pairs.json                  what made them, see `begin`
    FOLDER/shard-00007/z.npy           float16[n, H, W, C], the noise
    FOLDER/shard-00007/x0.npy          uint8[n, H, W, C], the samples
    FOLDER/shard-00007/y.npy           int32[n], the labels asked for
    FOLDER/shard-00007/checksums.json  the CRC-32 and size of each file

Pair i is number i % shard_size of shard i // shard_size. A shard is there wholly or not
at all: it is written under another name, and renamed when it is safe on disk.
"""

import io
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Int32, UInt8

from kdiff_jax.errors import DataError

IDENTITY = "pairs.json"
CHECKSUMS = "checksums.json"
DTYPES = {"z": np.float16, "x0": np.uint8, "y": np.int32}
CHUNK = 2**22  # bytes read at once

Folder = str | os.PathLike


class Pairs(NamedTuple):
    """Finished pairs; like `Images`, with the noise.

    Attributes:
        read: (int64[n] indices) -> (z float16[n, H, W, C], x0 uint8[n, H, W, C],
            y int32[n]); maps the files into memory, and is safe to call from threads.
        labels: int32[num].
        num: How many pairs.
        shape: (H, W, C).
        name: For messages and reports.
    """

    read: Callable[[Any], tuple[np.ndarray, np.ndarray, np.ndarray]]
    labels: np.ndarray
    num: int
    shape: tuple[int, int, int]
    name: str

    def batch(self, indices) -> dict[str, np.ndarray]:
        """The entries of a batch: z float16, x0 uint8, y int32."""
        return dict(zip(DTYPES, self.read(indices), strict=True))


def disk_need(num_pairs: int, shape: tuple[int, int, int]) -> int:
    """Bytes of the pairs: num_pairs (2 HWC + HWC + 4)."""
    return num_pairs * (3 * int(np.prod(shape)) + 4)


def check_disk(folder: Folder, num_pairs: int, shape: tuple[int, int, int]) -> None:
    """To be called before anything is made; shards anywhere in the folder count.

    Raises:
        DataError: If the pairs will not fit; it says the numbers.
    """
    folder = pathlib.Path(folder)
    need = disk_need(num_pairs, shape)
    there = sum(f.stat().st_size for f in folder.rglob("shard-*/*") if f.is_file())
    exists = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(exists).free
    if need > there + free:
        raise DataError(
            f"{folder}: {num_pairs} pairs of {'x'.join(map(str, shape))} need"
            f" {need / 1e9:.2f} GB; {there / 1e9:.2f} GB are there and the disk has"
            f" {free / 1e9:.2f} GB free; free some, make fewer pairs, or choose another"
            " --workdir"
        )


def begin(folder: Folder, identity: Mapping[str, Any]) -> None:
    """Note what makes the pairs, or check that the pairs there are made so.

    Args:
        folder: Made if need be.
        identity: What the pairs depend on, as JSON: num_pairs, shard_size and shape,
            which `open_pairs` reads, and teacher (a digest), sampler, seed.

    Raises:
        DataError: If other pairs are in the folder.
    """
    folder = pathlib.Path(folder)
    wanted = json.loads(json.dumps(dict(identity)))
    file = folder / IDENTITY
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{IDENTITY}.{os.getpid()}.tmp"
        _write(partial, (json.dumps(wanted, indent=2) + "\n").encode())
        partial.rename(file)
        _sync(folder)
    found = _identity(folder)
    for key in sorted({*wanted, *found}):
        was, now = found.get(key), wanted.get(key)
        if was != now:
            raise DataError(
                f"{file}: these pairs were made with {key}={was!r}, now it is {now!r};"
                f" delete {folder} or choose another --workdir"
            )


def missing(folder: Folder, num_pairs: int, shard_size: int) -> list[int]:
    """The shards that are not there, or damaged: every byte is read and summed."""
    sizes = _sizes(num_pairs, shard_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        good = pool.map(
            lambda k: _intact(_shard(folder, k), sizes[k]), range(len(sizes))
        )
        return [k for k, is_good in enumerate(good) if not is_good]


def verify(folder: Folder) -> None:
    """Raises DataError if a shard of the finished pairs is missing or damaged."""
    identity = _identity(pathlib.Path(folder))
    bad = missing(folder, identity["num_pairs"], identity["shard_size"])
    if bad:
        raise DataError(
            f"{folder}: missing or damaged shards: {', '.join(map(str, bad))}; run the"
            " stage that makes the pairs again, it makes only these"
        )


def write_shard(
    folder: Folder,
    number: int,
    z: Float16[np.ndarray, "n H W C"],
    x0: UInt8[np.ndarray, "n H W C"],
    y: Int32[np.ndarray, " n"],
) -> None:
    """Write one shard, or write it anew. Killed at any time, it leaves none or all.

    Raises:
        ValueError: If a type or shape is wrong.
        DataError: If the disk does not take it.
    """
    arrays = {"z": z, "x0": x0, "y": y}
    for key, array in arrays.items():
        if array.dtype != DTYPES[key] or array.shape[: len(y.shape)] != y.shape:
            raise ValueError(
                f"{key}={array.dtype}{list(array.shape)}: must be"
                f" {np.dtype(DTYPES[key])} with {len(y)} rows, one for each label"
            )
    shard = _shard(folder, number)
    partial = shard.with_name(shard.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        partial.mkdir(parents=True)
        sums: dict[str, Any] = {"num": len(y)}
        for key, array in arrays.items():
            array = np.ascontiguousarray(array)
            header = io.BytesIO()
            layout = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(header, layout)
            parts = header.getvalue(), array.reshape(-1).view(np.uint8).data
            sums[key] = _write(partial / f"{key}.npy", *parts)
        _write(partial / CHECKSUMS, json.dumps(sums).encode())
        _sync(partial)
        if shard.exists():
            shutil.rmtree(shard)
        partial.rename(shard)
        _sync(shard.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(
            f"{shard}: cannot be written ({error.strerror}); make room and run the same"
            " command again, finished shards are kept"
        ) from error


def open_pairs(folder: Folder) -> Pairs:
    """The finished pairs of a folder, mapped into memory, not read.

    Raises:
        DataError: If a shard is missing, or obviously not whole; for the rest see
            `verify`.
    """
    identity = _identity(pathlib.Path(folder))
    shape, shard_size = tuple(identity["shape"]), identity["shard_size"]
    shards = []
    for k, num in enumerate(_sizes(identity["num_pairs"], shard_size)):
        shard = _shard(folder, k)
        try:
            maps = [np.load(shard / f"{key}.npy", mmap_mode="r") for key in DTYPES]
        except (OSError, EOFError, ValueError) as error:
            raise DataError(
                f"{shard}: missing or damaged; run the stage that makes the pairs again"
            ) from error
        expected = [(num, *shape), (num, *shape), (num,)]
        if [m.shape for m in maps] != expected:
            raise DataError(
                f"{shard}: shapes {[m.shape for m in maps]}, not {expected}; delete it"
                " and run the stage that makes the pairs again"
            )
        shards.append(maps)

    def read(indices):
        indices = np.asarray(indices)
        z = np.empty((len(indices), *shape), np.float16)
        x0 = np.empty((len(indices), *shape), np.uint8)
        y = np.empty(len(indices), np.int32)
        numbers, rows = np.divmod(indices, shard_size)
        for k in np.unique(numbers).tolist():
            here = numbers == k
            for array, mapped in zip((z, x0, y), shards[k], strict=True):
                array[here] = mapped[rows[here]]
        return z, x0, y

    return Pairs(
        read=read,
        labels=np.concatenate([maps[2] for maps in shards]),
        num=identity["num_pairs"],
        shape=shape,
        name=f"pairs {folder}",
    )


def _sizes(num_pairs, shard_size):
    """Pairs in each shard; the last may be short."""
    return [
        min(shard_size, num_pairs - start) for start in range(0, num_pairs, shard_size)
    ]


def _shard(folder, number):
    return pathlib.Path(folder) / f"shard-{number:05d}"


def _identity(folder):
    file = folder / IDENTITY
    try:
        identity = json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError(
            f"{file}: not there, so there are no pairs; run the stage that makes them"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}); delete {folder}") from error
    return identity


def _intact(shard, num):
    try:
        sums = json.loads((shard / CHECKSUMS).read_bytes())
        # CRC-32 sees every single flipped bit, at the speed of the disk.
        return sums["num"] == num and all(
            _sum_of_file(shard / f"{key}.npy") == sums[key] for key in DTYPES
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum_of_file(file):
    crc = size = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"crc32": crc, "bytes": size}


def _write(file, *parts):
    """Write and sync; returns the sums of what was meant, not of what arrived."""
    crc = size = 0
    with open(file, "wb") as stream:
        for part in parts:
            stream.write(part)
            crc, size = zlib.crc32(part, crc), size + len(part)
        stream.flush()
        os.fsync(stream.fileno())
    return {"crc32": crc, "bytes": size}


def _sync(folder):
    """Make the names in a folder as durable as the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
