"""Arrays of .npy and .npz files that a user named; nothing in them is executed.

What a file claims is checked before memory is asked for: a header of a hundred bytes
can ask for 30 GB, and 7 MB of packed zeros are 8 GB.
"""

import math
import os
import pathlib
import zipfile
from collections.abc import Collection

import numpy as np

from kdiff_jax import zips
from kdiff_jax.files import Unreadable, open_regular

# A packed member above the size may be larger than its bytes by this factor at most;
# images and weights are so by less than 20, and zeros by 1000.
LARGE, MAX_RATIO = 2**30, 100
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
MEMORY_LIMITS = (  # of a container
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def names(path: str | os.PathLike) -> list[str]:
    """Names of the arrays in an .npz.

    Raises:
        FileNotFoundError: If there is none.
        Unreadable: If it is damaged, or is no .npz.
    """
    with zips.open_archive(path) as archive:
        found = archive.namelist()
        for name in found:
            zips.check_name(archive, name)
    return [name.removesuffix(".npy") for name in found]


def load(
    path: str | os.PathLike, *, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name.

    Args:
        path: The file.
        only: Names of the arrays to read; None reads all.

    Raises:
        FileNotFoundError: If there is no such file.
        Unreadable: If it is damaged, or its arrays are larger than the memory.
    """
    with zips.open_archive(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info for info in archive.filelist
        }
        for info in members.values():
            zips.check_name(archive, info.filename)
        chosen = {k: v for k, v in members.items() if only is None or k in only}
        _check_memory(sum(info.file_size for info in chosen.values()))
        return {name: _member(archive, info) for name, info in chosen.items()}


def load_one(path: str | os.PathLike) -> np.ndarray:
    """The array of an .npy.

    Raises:
        FileNotFoundError: If there is none.
        Unreadable: If it is damaged, or larger than the memory.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            _check_memory(size)
            return _array(stream, size)
    except (FileNotFoundError, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(zips.line(error)) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    packed, size = max(info.compress_size, 1), info.file_size
    if size > LARGE and size > MAX_RATIO * packed:
        raise Unreadable(
            f"{info.filename} has {packed} bytes that unpack to {size}, which no images"
            " or weights do"
        )
    with zips.reading(archive, info.filename) as stream:
        return _array(stream, size)


def _array(stream, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version not in READERS:
        raise Unreadable(f"its format {version} is of arrays with named fields")
    shape, _, dtype = READERS[version](stream)
    if dtype.hasobject:
        raise Unreadable("it holds objects, which need allow_pickle and may run code")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != size - stream.tell():
        raise Unreadable(
            f"its header announces {dtype}{list(shape)}, which is not what follows"
        )
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    stream.read()  # to the end, where the sum of a member is verified
    return array


def _check_memory(size: int) -> None:
    if size > (limit := memory()):
        raise Unreadable(f"its arrays have {size} bytes, and the memory {limit}")


def memory() -> int:
    """Bytes of memory that this host, or its container, has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in map(pathlib.Path, MEMORY_LIMITS):
        text = file.read_text().strip() if file.is_file() else "max"
        found += [int(text)] if text.isdigit() else []
    return min(found)
