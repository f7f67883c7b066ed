"""Zip archives that a user named; read in place, never unpacked."""

import collections
import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import IO

from kdiff_jax.files import Unreadable, open_regular

END, COUNT = b"PK\5\6", 10  # of the record at the end, and where its count stands
MAX_END = 22 + 2**16  # bytes that the record takes with its comment
ZIP64 = 2**16 - 1  # then the count is elsewhere


def open_archive(path) -> zipfile.ZipFile:
    """An archive whose list of members is whole.

    Raises:
        FileNotFoundError: If there is none.
        Unreadable: If it is damaged, or is no archive.
    """
    try:
        with open_regular(path) as stream:
            count = _announced(stream)
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    # A damaged list makes the library raise whatever its parts do.
    except Exception as error:
        raise Unreadable(line(error)) from error
    names = collections.Counter(archive.namelist())
    why = ""
    # A flipped length may hide members, and the library does not count them.
    if count not in (names.total(), ZIP64):
        why = f"lists {names.total()} members where {count} are announced"
    elif len(names) < names.total():
        why = f"two members are called {names.most_common(1)[0][0]!r}"
    if why:
        archive.close()
        raise Unreadable(why)
    return archive


def _announced(stream) -> int:
    """The number of members, as the record at the end has it."""
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - MAX_END))
    tail = stream.read()
    if (at := tail.rfind(END)) < 0:
        raise Unreadable("not a .zip file, or its end is missing")
    return struct.unpack_from("<H", tail, at + COUNT)[0]


@contextlib.contextmanager
def reading(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """A member as a stream, whatever is wrong with it as Unreadable."""
    try:
        with archive.open(name) as stream:
            yield stream
    except Unreadable:
        raise
    except Exception as error:  # from several decompressors
        raise Unreadable(line(error)) from error


def content(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, verified by its sum.

    Raises:
        Unreadable: If it is damaged.
    """
    with reading(archive, name) as stream:
        return stream.read()


def check_name(archive: zipfile.ZipFile, name: str) -> None:
    """A member stands twice in an archive, in the list and at its place.

    Raises:
        Unreadable: If it is called otherwise there.
    """
    with reading(archive, name):
        pass


def line(error: BaseException) -> str:
    """What an exception of a library says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
