"""Pairs of a teacher's input noise and its sample, on disk, made in resumable shards.

    FOLDER/pairs.json                  what made them, see `begin`
    FOLDER/shard-00007/z.npy           float16[n, H, W, C], the noise
    FOLDER/shard-00007/x0.npy          uint8[n, H, W, C], the samples; float16 where
                                       images live in another space than pixels
    FOLDER/shard-00007/y.npy           int32[n], the labels asked for
    FOLDER/shard-00007/checksums.json  see `shards`

Pair i is number i % shard_size of shard i // shard_size.
"""

import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Int32, UInt8

from kdiff_jax import sealed, shards
from kdiff_jax.errors import DataError, StorageError

IDENTITY = "pairs.json"
DTYPES = {"z": np.float16, "x0": np.uint8, "y": np.int32}
BYTE = np.dtype(np.uint8)

Folder = str | os.PathLike

log = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """Finished pairs; like `Images`, with the noise.

    Attributes:
        read: (int64[n] indices) -> (z float16[n, H, W, C], x0 uint8[n, H, W, C] or
            float16, y int32[n]); maps the files into memory, and is safe to call from
            threads.
        labels: int32[num].
        num: Number of pairs.
        shape: (H, W, C).
        name: Name for messages and reports.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.data import pairs
        >>> batch = pairs.open_pairs(PAIRS).batch(np.array([0, 2]))
        >>> {name: array.dtype.name for name, array in batch.items()}
        {'z': 'float16', 'x0': 'uint8', 'y': 'int32'}
    """

    read: Callable[[Any], tuple[np.ndarray, np.ndarray, np.ndarray]]
    labels: np.ndarray
    num: int
    shape: tuple[int, int, int]
    name: str

    def batch(self, indices) -> dict[str, np.ndarray]:
        """The entries of a batch: z float16, x0 uint8 or float16, y int32.

        Args:
            indices: int64[n], numbers of pairs.
        """
        return dict(zip(DTYPES, self.read(indices), strict=True))


def disk_need(num_pairs: int, shape: tuple[int, ...], kept: np.dtype = BYTE) -> int:
    """Bytes of the pairs: num_pairs (2 HWC + HWC + 4) of pixels.

    Args:
        num_pairs: Number of pairs.
        shape: (H, W, C).
        kept: Type of x0.
    """
    return num_pairs * ((2 + kept.itemsize) * int(np.prod(shape)) + 4)


def check_disk(
    folder: Folder, num_pairs: int, shape: tuple[int, ...], kept: np.dtype = BYTE
) -> None:
    """To be called before anything is made; shards anywhere in the folder count.

    Raises:
        StorageError: If the pairs will not fit; it says the numbers.
    """
    what = f"{num_pairs} pairs of {'x'.join(map(str, shape))}"
    way_out = "make fewer pairs, or choose another --workdir"
    shards.check_room(folder, disk_need(num_pairs, shape, kept), what, way_out)


def begin(folder: Folder, identity: Mapping[str, Any]) -> None:
    """Notes what makes the pairs, or checks that the pairs there are made so.

    A note that is damaged is written anew: each shard knows whose it is.

    Args:
        folder: Folder to write to; made if need be.
        identity: What the pairs depend on, as JSON: num_pairs, shard_size and shape,
            which `open_pairs` reads, x0_type where x0 is not uint8, and teacher (a
            digest), sampler, seed.

    Raises:
        DataError: If other pairs are in the folder.
    """
    file = pathlib.Path(folder) / IDENTITY
    wanted = json.loads(json.dumps(dict(identity)))
    try:
        found = _identity(file)
    except DataError as error:
        if file.exists():
            log.error("%s", error)
        sealed.write_json(file, wanted)
        return
    for key in sorted({*wanted, *found}):
        was, now = found.get(key), wanted.get(key)
        if was != now:
            raise DataError(
                f"{file}: these pairs were made with {key}={was!r}, now it is {now!r};"
                f" delete {folder} or choose another --workdir"
            )


def missing(folder: Folder, numbers: Iterable[int] | None = None) -> list[int]:
    """The shards that are not there, or damaged: every byte is read and summed.

    Args:
        folder: Folder with the note that `begin` writes.
        numbers: Numbers of the shards to check, so that hosts can share the work; None
            for all.

    Raises:
        DataError: If the note is missing or damaged.
    """
    identity = _identity(pathlib.Path(folder) / IDENTITY)
    facts = [_facts(identity, num) for num in _sizes(identity)]
    return shards.missing(folder, _dtypes(identity), facts, numbers)


def num_there(folder: Folder) -> int:
    """How many shards are there, whole or not; see `missing`."""
    return sum(shards.path(folder, k).is_dir() for k in range(num_shards(folder)))


def verify(folder: Folder) -> None:
    """Reads and sums every byte of finished pairs.

    Args:
        folder: Folder of the pairs.

    Raises:
        DataError: If a shard is missing or damaged.

    Examples:
        >>> from kdiff_jax.data import pairs
        >>> pairs.verify(PAIRS)
    """
    if bad := missing(folder):
        raise DataError(
            f"{folder}: missing or damaged shards: {', '.join(map(str, bad))}; run the"
            " stage that makes the pairs again, it makes only these"
        )


def num_shards(folder: Folder) -> int:
    """Raises DataError if the note is missing or damaged."""
    return len(_sizes(_identity(pathlib.Path(folder) / IDENTITY)))


def write_shard(
    folder: Folder,
    number: int,
    z: Float16[np.ndarray, "n H W C"],
    x0: UInt8[np.ndarray, "n H W C"] | Float16[np.ndarray, "n H W C"],
    y: Int32[np.ndarray, " n"],
) -> None:
    """Writes one shard, or writes it anew. Killed at any time, it leaves none or all.

    Raises:
        ValueError: If a type or shape is wrong.
        DataError: If the note that `begin` writes is missing or damaged.
        StorageError: If the disk does not take it.
    """
    arrays = {"z": z, "x0": x0, "y": y}
    identity = _identity(pathlib.Path(folder) / IDENTITY)
    dtypes = _dtypes(identity)
    for key, array in arrays.items():
        if array.dtype != dtypes[key] or array.shape[: len(y.shape)] != y.shape:
            raise ValueError(
                f"{key}={array.dtype}{list(array.shape)}: must be"
                f" {np.dtype(dtypes[key])} with {len(y)} rows, one for each label"
            )
    facts = _facts(identity, len(y))
    try:
        shards.write(folder, number, arrays, facts)
    except OSError as error:
        raise StorageError(
            f"{shards.path(folder, number)}: cannot be written ({error.strerror}); make"
            " room and run the same command again, finished shards are kept"
        ) from error


def open_pairs(folder: Folder) -> Pairs:
    """The finished pairs of a folder, mapped into memory, not read.

    Args:
        folder: Folder of the pairs.

    Raises:
        DataError: If a shard is missing, or obviously not whole; for the rest see
            `verify`.

    Examples:
        >>> from kdiff_jax.data import pairs
        >>> found = pairs.open_pairs(PAIRS)
        >>> len(found.labels) == found.num
        True
    """
    identity = _identity(pathlib.Path(folder) / IDENTITY)
    shape, shard_size = tuple(identity["shape"]), identity["shard_size"]
    dtypes = _dtypes(identity)
    found = []
    for k, num in enumerate(_sizes(identity)):
        shard = shards.path(folder, k)
        try:
            maps = shards.open_maps(folder, k, dtypes)
        except sealed.Damaged as damage:
            raise DataError(
                f"{damage}; run the stage that makes the pairs again"
            ) from damage
        expected = [(num, *shape), (num, *shape), (num,)]
        if [m.shape for m in maps] != expected:
            raise DataError(
                f"{shard}: shapes {[m.shape for m in maps]}, not {expected}; delete it"
                " and run the stage that makes the pairs again"
            )
        found.append(maps)

    def read(indices):
        indices = np.asarray(indices)
        z = np.empty((len(indices), *shape), np.float16)
        x0 = np.empty((len(indices), *shape), dtypes["x0"])
        y = np.empty(len(indices), np.int32)
        numbers, rows = np.divmod(indices, shard_size)
        for k in np.unique(numbers).tolist():
            here = numbers == k
            for array, mapped in zip((z, x0, y), found[k], strict=True):
                array[here] = mapped[rows[here]]
        return z, x0, y

    return Pairs(
        read=read,
        labels=np.concatenate([maps[2] for maps in found]),
        num=identity["num_pairs"],
        shape=shape,
        name=f"pairs {folder}",
    )


def _dtypes(identity) -> dict[str, Any]:
    return DTYPES | {"x0": np.dtype(identity.get("x0_type", "uint8"))}


def _sizes(identity) -> list[int]:
    """Pairs in each shard; the last may be short."""
    num_pairs, size = identity["num_pairs"], identity["shard_size"]
    return [min(size, num_pairs - start) for start in range(0, num_pairs, size)]


def _facts(identity, num: int) -> dict[str, Any]:
    """What a shard says of itself: how many pairs, and made by what."""
    return {"num": num, "made_by": sealed.seal(identity)[sealed.KEY]}


def _identity(file: pathlib.Path) -> dict[str, Any]:
    way_out = "run the stage that makes the pairs again, it keeps the shards"
    identity = sealed.read_json(file, error=DataError, way_out=way_out)
    counts = [identity.get(name) for name in ("num_pairs", "shard_size")]
    shape = identity.get("shape")
    counts += shape if isinstance(shape, list) and len(shape) == 3 else [None]
    if any(type(n) is not int or n < 1 for n in counts) or (
        identity.get("x0_type", "float16") != "float16"
    ):
        raise DataError(f"{file}: is damaged (no counts and no shape); {way_out}")
    return identity
