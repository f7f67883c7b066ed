"""Images with captions in .tar files, as webdataset and img2dataset write them.

Files of one example have one name up to its first point: 000017.jpg, and 000017.txt
with the caption or 000017.json with it as `caption` or `text`. An index of the headers
is made once; images are then read by their place, in any order. A .tar of a store is
in memory while its headers are read.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kdiff_jax.data.encoded import MAX_BYTES
from kdiff_jax.data.listing import LeftOut, is_hidden, is_image
from kdiff_jax.data.objects import File
from kdiff_jax.errors import DataError

SUFFIX = ".tar"
KEYS = ("caption", "text")  # of a caption in .json


class Member(NamedTuple):
    """A file in a .tar.

    Attributes:
        tar: The .tar.
        name: Name in it.
        offset: Place of its first byte.
        size: Number of bytes.
    """

    tar: File
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: If they cannot be read.
        """
        content = self.tar.read(self.offset, self.size) if self.size else b""
        if len(content) < self.size:
            raise DataError(f"{self}: is cut off; copy the .tar again")
        return content

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"


def index(
    tars: Mapping[str, File], left_out: LeftOut
) -> tuple[dict[str, Member], dict[str, list[str]]]:
    """(images by name, captions by name of the image), in the order of the files.

    Args:
        tars: The .tar files by name, "" for the only one.
        left_out: Is told of what is no image and no caption.

    Raises:
        DataError: If a .tar is damaged, or a caption is no text.
    """
    images: dict[str, Member] = {}
    captions: dict[str, list[str]] = {}
    for name, tar in sorted(tars.items()):
        own, beside = _sorted_out(tar, left_out)
        start = f"{name}/" if name else ""
        for key, image in own.items():
            images[start + image.name] = image
            if key in beside and (text := _caption(beside[key])):
                captions[start + image.name] = [text]
    return images, captions


def _sorted_out(
    tar: File, left_out: LeftOut
) -> tuple[dict[str, Member], dict[str, Member]]:
    """(images, captions) of a .tar by what the names of an example begin with."""
    own: dict[str, Member] = {}
    beside: dict[str, Member] = {}
    for member in _members(tar):
        folder, _, name = member.name.rpartition("/")
        stem, _, kind = name.partition(".")
        key = f"{folder}/{stem}"
        if is_hidden(name):
            left_out.add("hidden", str(member))
        elif is_image(name):
            own.setdefault(key, member)
        elif kind == "txt" or (kind == "json" and key not in beside):
            beside[key] = member  # a .txt comes before a .json
        elif kind != "json":
            left_out.add("of other kinds", str(member))
    return own, beside


def _members(tar: File) -> Iterator[Member]:
    end = 0
    try:
        with tar.headers() as file, tarfile.open(fileobj=file, mode="r:") as content:
            size = file.seek(0, io.SEEK_END)
            for info in content:
                blocks = -(-info.size // tarfile.BLOCKSIZE) if info.isfile() else 0
                end = info.offset_data + blocks * tarfile.BLOCKSIZE
                if info.size > MAX_BYTES or end > size:
                    raise tarfile.ReadError(f"{info.name} ends behind the file")
                if info.isfile():
                    yield Member(tar, info.name, info.offset_data, info.size)
            # A file that is cut between two members is read without an error.
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is cut off")
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:100]
        raise DataError(
            f"{tar}: is no whole .tar without compression ({why}); copy or unpack it"
            " again"
        ) from error


def _caption(member: Member) -> str:
    """The caption in a .txt or .json; "" of a .json without one."""
    try:
        text = member.read().decode("utf-8-sig")
        if not member.name.endswith(".json"):
            return text.strip()
        found = json.loads(text)
        texts = [found[key] for key in KEYS if isinstance(found.get(key), str)]
        return texts[0].strip() if texts else ""
    except (ValueError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:100]
        raise DataError(
            f"{member}: is no caption in UTF-8 ({why}); mend or delete it"
        ) from error
