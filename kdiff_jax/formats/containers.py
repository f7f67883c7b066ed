"""Opens a foreign checkpoint, whatever its format: what counts is its first bytes."""

import dataclasses
import functools
import hashlib
import mmap
import pathlib
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import open_regular
from kdiff_jax.formats import (
    msgpack_files,
    pickles,
    raw,
    tensors,
    torch_files,
    wrappers,
)

ACCEPTED = (
    "give safetensors, a .pt, .pth or .bin of torch.save, EDM's network pickle, or a"
    " Flax msgpack checkpoint"
)


@dataclasses.dataclass(frozen=True)
class Container:
    """A checkpoint as a tree.

    Attributes:
        kind: "safetensors", "torch-zip", "torch-legacy", "pickle" or "msgpack".
        content: Dicts, lists and plain values with `Lazy` arrays; from pickles also
            `pickle_objects.Stub` and `torch_files.Persistent`. Safetensors:
            {name: array}. Names are without those of `wrappers`.
        metadata: Metadata of a safetensors file; {} for other kinds.
    """

    path: pathlib.Path
    kind: str
    content: Any
    metadata: dict[str, str]

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of the file, computed when asked for."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open(path, *, unwrap: bool = True) -> Container:
    """Reads a checkpoint; its arrays stay in the file until they are wanted.

    Args:
        path: A file.
        unwrap: Take wrappers of PyTorch out of the names, see `wrappers`.

    Raises:
        CheckpointError: If there is none, or it is damaged or of no known kind.
    """
    path = pathlib.Path(path)
    try:
        with open_regular(path) as file:
            if not file.seek(0, 2):
                raise CheckpointError(f"{path}: it is empty; copy or download it again")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; {ACCEPTED}") from error
    metadata: dict[str, str] = {}
    try:
        kind = _kind(data)
        if kind == "msgpack":
            content = msgpack_files.load(data)
        elif kind.startswith("torch"):
            content = torch_files.load(data)
        elif kind == "pickle":
            content, _ = pickles.load(data, globals=torch_files.GLOBALS)
        else:
            content, metadata = tensors.read(path)
        content = wrappers.unwrapped(content) if unwrap else content
        return Container(path, kind, content, metadata)
    except CheckpointError as error:
        # Safetensors' own errors have the path already.
        start = "" if str(error).startswith(f"{path}:") else f"{path}: "
        raise CheckpointError(f"{start}{error}") from error


def _kind(data: memoryview) -> str:
    head = bytes(data[:512])
    # First: a header of 640 bytes starts like a pickle.
    if head[5:9] == b"\0\0\0{":
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "torch-zip"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        legacy = torch_files.MAGIC_BYTES in head[:32]
        return "torch-legacy" if legacy else "pickle"
    if str(torch_files.MAGIC).encode() in head[:32]:  # protocols 0 and 1
        return "torch-legacy"
    if head[:1] in b"(}]c" and data[-1:] == b".":
        return "pickle"
    if known := _foreign(head):
        raise CheckpointError(f"{known}; {ACCEPTED}")
    if 0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return "msgpack"
    found = f"it starts with {raw.shown(head[:16])}, which is no known format"
    raise CheckpointError(f"{found}; {ACCEPTED}")


def _foreign(head: bytes) -> str | None:
    """What people give by mistake; some of it starts like msgpack."""
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page, so the download failed"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file; run git lfs pull"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "it is compressed; unpack it"
    if head.startswith(b"\x89HDF"):
        return "it is HDF5"
    if head.startswith(b"\x89PNG"):
        return "it is a PNG image"
    if start.startswith(b"{"):
        return "it is JSON, not weights"
    return None
