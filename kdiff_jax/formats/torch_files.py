"""Reads what `torch.save` and pickles of torch modules hold, without torch.

Tensors become `Lazy` arrays over the file, parameters too; modules become stand-ins
(`Stub`), and objects of EDM's `torch_utils.persistence` become `Persistent`.
The source code that those carry is never compiled, executed or imported.
"""

import dataclasses
import functools
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import pickle_objects, pickles, raw
from kdiff_jax.formats.lazy import Lazy

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the format before zip
MAGIC_BYTES = MAGIC.to_bytes(10, "little")
PROTOCOL = 1001

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
}
DTYPES = {
    name: np.dtype(name)
    for name in "float64 float32 float16 int64 int32 int16 int8 uint8 uint16 uint32"
    " uint64 bool complex64 complex128".split()
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
ALIASES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64"}

MODULES = {
    "torch.nn.modules.container": "ModuleDict ModuleList Sequential ParameterDict"
    " ParameterList",
    "torch.nn.modules.linear": "Linear Identity Bilinear",
    "torch.nn.modules.conv": "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d",
    "torch.nn.modules.normalization": "GroupNorm LayerNorm RMSNorm LocalResponseNorm",
    "torch.nn.modules.batchnorm": "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm",
    "torch.nn.modules.activation": "ReLU SiLU GELU LeakyReLU ELU Sigmoid Softmax Tanh"
    " Softplus MultiheadAttention",
    "torch.nn.modules.dropout": "Dropout Dropout2d",
    "torch.nn.modules.sparse": "Embedding",
    "torch.nn.modules.pooling": "AvgPool2d MaxPool2d AdaptiveAvgPool2d",
    "torch.nn.modules.upsampling": "Upsample UpsamplingNearest2d",
    "torch.nn.modules.flatten": "Flatten Unflatten",
    "torch.nn.modules.padding": "ZeroPad2d ReflectionPad2d ReplicationPad2d",
    "torch.nn.modules.module": "Module",
    "dnnlib.util": "EasyDict",
    # Whose classes are keys of "callbacks" in a trainer's state.
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    "argparse": "Namespace",  # the flags of a training, as DiT's and SiT's keep them
}


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """Numbers in a file that tensors are views of.

    Attributes:
        num: Number of elements.
        data: Gives their bytes.
    """

    dtype: np.dtype
    num: int
    data: Callable[[], Any]

    def view(self, dtype: np.dtype) -> "Storage":
        """The same bytes as numbers of another type."""
        num = self.num * self.dtype.itemsize // dtype.itemsize
        size = num * dtype.itemsize
        return Storage(dtype, num, lambda: self.data()[:size])


@dataclasses.dataclass(eq=False)
class Persistent(pickle_objects.Inert):
    """An object of EDM's `torch_utils.persistence`: a network, a loss.

    Attributes:
        class_name: As its own source calls it.
        state: Its `__dict__`: for a network, `_parameters`, `_buffers`, `_modules`.
        meta: What else was stored: type, version, module_src (text, and stays so).
    """

    class_name: str
    state: Any
    meta: dict[str, Any]

    def children(self):
        return (self.state, self.meta)


def load(data) -> Any:
    """The tree in a file of `torch.save`, of either format.

    Args:
        data: The file, as bytes or another buffer of bytes.

    Raises:
        CheckpointError: If it is damaged or holds anything but data. One line.
    """
    zipped = bytes(data[:4]) == b"PK\x03\x04"
    return _load_zip(data) if zipped else _load_legacy(data, GLOBALS)


def _load_zip(data) -> Any:
    members = _members(data)
    roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise CheckpointError(
            "it is a zip file without data.pkl, so not one of torch.save; give the"
            " checkpoint itself"
        )
    (root,) = roots
    if bytes(members.get(root + "byteorder", b"little")[:16]) != b"little":
        raise CheckpointError("it was written on a big-endian machine; save it again")

    @functools.cache
    def storage(kind: str, key: str, num: int) -> Storage:
        name, dtype = f"{root}data/{key}", DTYPES[STORAGES[kind]]
        if name not in members:
            raise CheckpointError(f"its storage {raw.shown(key)} is missing")
        if len(members[name]) != num * dtype.itemsize:
            raise CheckpointError(
                f"its storage {raw.shown(key)} has {len(members[name])} bytes, not"
                f" {num * dtype.itemsize}; copy or download it again"
            )
        return Storage(dtype, num, lambda: members[name])

    value, _ = pickles.load(
        members[root + "data.pkl"],
        globals=_Scripted(GLOBALS),
        persistent=lambda key: storage(*_storage_id(key)),
    )
    return value


def _members(data) -> dict[str, memoryview]:
    """{name: bytes} of a zip file, none of them compressed or overlapping.

    The code of a TorchScript archive is left out.
    """
    view = memoryview(data)
    try:
        infos = zipfile.ZipFile(pickles.Window(data)).infolist()  # type: ignore[arg-type]
    # All four are zipfile's own: the second for versions that it does not read.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"it is a damaged zip file ({raw.shown(str(error))}); copy or download it"
            " again"
        ) from error
    members: dict[str, memoryview] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise CheckpointError(f"its member {raw.shown(name)} points outside of it")
        if name in members:
            raise CheckpointError(f"its member {raw.shown(name)} is there twice")
        if "/code/" in name:  # TorchScript's source: packed, and nothing for us
            continue
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(
                f"its member {raw.shown(name)} is compressed or encrypted, which"
                " torch.save never does; save it with torch.save"
            )
        start = info.header_offset
        header = bytes(view[start : start + 30])
        if start < end or len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise _torn(name)
        start += 30 + sum(struct.unpack("<HH", header[26:30]))
        end = start + info.file_size
        if info.file_size != info.compress_size or end > len(view):
            raise _torn(name)
        members[name] = view[start:end]
    return members


def _torn(name: str) -> CheckpointError:
    return CheckpointError(
        f"its member {raw.shown(name)} is not where the zip file says; copy or download"
        " it again"
    )


def _load_legacy(data, globals) -> Any:
    """Magic number, version, machine, object, keys of storages, storages."""
    view = memoryview(data)
    magic, at = pickles.load(view, globals={})
    if magic != MAGIC:
        raise CheckpointError("it does not start with torch's magic number")
    head = []
    for _ in range(2):
        value, end = pickles.load(view[at:], globals={})
        head.append(value)
        at += end
    protocol, system = head
    if protocol != PROTOCOL or type(system) is not dict:
        raise CheckpointError(f"its version is {raw.shown(protocol)}, not {PROTOCOL}")
    if system.get("little_endian") is not True:
        raise CheckpointError("it was written on a big-endian machine; save it again")

    where: dict[str, memoryview] = {}
    claimed: dict[str, Storage] = {}

    def storage(key) -> Storage:
        kind, name, num = _storage_id(key)
        dtype = DTYPES[STORAGES[kind]]
        if name not in claimed:
            claimed[name] = Storage(dtype, num, lambda: where[name])
        if (claimed[name].dtype, claimed[name].num) != (dtype, num):
            raise CheckpointError(f"its storage {raw.shown(name)} has two sizes")
        return claimed[name]

    value, end = pickles.load(view[at:], globals=globals, persistent=storage)
    at += end
    keys, end = pickles.load(view[at:], globals={})
    at += end
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise CheckpointError("its list of storages is damaged")
    if sorted(keys) != sorted(claimed):
        raise CheckpointError("its storages are not those that its tensors refer to")
    for key in keys:
        size = claimed[key].num * claimed[key].dtype.itemsize
        count = int.from_bytes(view[at : at + 8], "little")
        where[key] = view[at + 8 : at + 8 + size]
        if count != claimed[key].num or len(where[key]) != size:
            raise CheckpointError(
                f"its storage {raw.shown(key)} ends early; copy or download it again"
            )
        at += 8 + size
    return value


def _storage_id(key: Any) -> tuple[str, str, int]:
    """(class, key, number of elements) of ("storage", class, key, device, number)."""
    if type(key) is not tuple or len(key) not in (5, 6) or key[0] != "storage":
        raise CheckpointError("it refers to something that is no storage")
    _, kind, name, _, num, *view = key
    if view not in ([], [None]):
        raise CheckpointError(
            "it was saved by torch before 0.4; save it with a new one"
        )
    known = type(kind) is pickle_objects.Global and kind.name in STORAGES
    if not known or type(name) is not str or type(num) is not int or num < 0:
        raise CheckpointError(f"its storage {raw.shown(name)} is of an unknown kind")
    return kind.name, name, num


def _tensor(storage, offset, size, stride, *_) -> Lazy:
    if type(storage) is not Storage or type(stride) not in (tuple, list):
        raise CheckpointError("a tensor is made of what is no storage")
    return raw.strided(storage.data, storage.num, storage.dtype, offset, size, stride)


def _tensor_v3(storage, offset, size, stride, grad, hooks, dtype, *_) -> Lazy:
    name = dtype.name if type(dtype) is pickle_objects.Global else ""
    name = ALIASES.get(name, name)
    if type(storage) is not Storage or name not in DTYPES:
        raise CheckpointError(f"a tensor is of an unknown type {raw.shown(name)}")
    return _tensor(storage.view(DTYPES[name]), offset, size, stride)


def _parameter(data, *_) -> Lazy:
    if type(data) is not Lazy:
        raise CheckpointError("a parameter is made of what is no tensor")
    return data


def _size(numbers=()) -> tuple[int, ...]:
    if type(numbers) is not tuple or any(type(n) is not int for n in numbers):
        raise CheckpointError("a torch.Size is not made of numbers")
    return numbers


def _device(kind, index=None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise CheckpointError("a torch.device is not a name")
    return kind if index is None else f"{kind}:{index}"


def _opened(value):
    """An EasyDict as the dict that it is."""
    return value.items if isinstance(value, pickle_objects.Stub) else value


def _persistent(meta) -> Persistent:
    meta = _opened(meta)
    if type(meta) is not dict or type(meta.get("class_name")) is not str:
        raise CheckpointError("an object of torch_utils.persistence has no class")
    rest = {k: v for k, v in meta.items() if k not in ("class_name", "state")}
    return Persistent(meta["class_name"], meta.get("state"), rest)


def _from_bytes(data) -> Any:
    """A storage as torch's `Storage.__reduce__` writes it: a file in the pickle."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise CheckpointError("an embedded storage is not bytes")
    return _load_legacy(data, INNER)


INNER: Mapping[tuple[str, str], Callable | None] = {
    **pickle_objects.PLAIN,
    **pickle_objects.stubs(MODULES),
    **{("torch", name): None for name in (*STORAGES, *DTYPES, *ALIASES)},
    **{("torch.storage", name): None for name in ("UntypedStorage", "TypedStorage")},
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
}
"""What an embedded file may ask for; no further embedded files."""

GLOBALS: Mapping[tuple[str, str], Callable | None] = {
    **INNER,
    ("torch.storage", "_load_from_bytes"): _from_bytes,
}
"""What a checkpoint may ask for."""


class _Scripted(dict):
    """Names that an archive may ask for: also its own classes, if it is of TorchScript.

    Those are attributes by name; their code lies elsewhere in the file, unread.
    """

    def __contains__(self, key):
        return super().__contains__(key) or key[0].split(".")[0] == "__torch__"

    def __missing__(self, key):
        module, name = key
        return lambda *args: pickle_objects.Stub(module, name, args)
