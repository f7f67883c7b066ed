"""Small checkpoints of every foreign kind, written opcode by opcode, without torch."""

import io
import pickle
import struct
import zipfile

import flax.serialization
import ml_dtypes
import numpy as np
import safetensors.numpy

STORAGE = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Code(bytes):
    """Opcodes that stand where a value would."""


def name(module, attribute) -> Code:
    return Code(f"c{module}\n{attribute}\n".encode())


def call(module, attribute, *args) -> Code:
    return Code(name(module, attribute) + dump(args) + b"R")


def build(target: Code, state) -> Code:
    return Code(target + dump(state) + b"b")


def dump(value) -> bytes:
    """The opcodes of a value, in protocol 3 and without a memo."""
    match value:
        case Code():
            return value
        case tuple():
            return b"(" + b"".join(map(dump, value)) + b"t"
        case list():
            return b"](" + b"".join(map(dump, value)) + b"e"
        case dict():
            pairs = [dump(x) for item in value.items() for x in item]
            return b"}(" + b"".join(pairs) + b"u"
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    return pickle.dumps(value, 2)[2:-1]


def stream(value) -> bytes:
    return b"\x80\x03" + dump(value) + b"."


class Tensors:
    """Writes arrays as torch does, and collects their storages."""

    def __init__(self):
        self.storages: dict[str, np.ndarray] = {}

    def __call__(self, array, offset=0, shape=None, strides=None, num=None) -> Code:
        """The array as a tensor; the others lie about where it is in its storage."""
        key = str(len(self.storages))
        self.storages[key] = array.reshape(-1)
        kind = name("torch", STORAGE[array.dtype])
        size = array.size if num is None else num
        storage = Code(dump(("storage", kind, key, "cpu", size)) + b"Q")
        shape = array.shape if shape is None else shape
        if strides is None:
            strides = tuple(s // array.itemsize for s in array.strides)
        hooks = call("collections", "OrderedDict")
        return call(
            "torch._utils",
            "_rebuild_tensor_v2",
            storage,
            offset,
            shape,
            strides,
            False,
            hooks,
        )


def torch_zip(value, tensors: Tensors, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", stream(value))
        archive.writestr("archive/byteorder", "little")
        for key, array in tensors.storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        for member, content in members.items():
            archive.writestr(member, content)
    return file.getvalue()


def torch_legacy(value, tensors: Tensors) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [stream(x) for x in (MAGIC, 1001, system, value, [*tensors.storages])]
    for array in tensors.storages.values():
        parts.append(struct.pack("<q", array.size) + array.tobytes())
    return b"".join(parts).replace(b"\x80\x03", b"\x80\x02", 1)


def parameter(array) -> Code:
    """A parameter in a pickle: its storage is a whole legacy file in it."""
    kind = name("torch", STORAGE[array.dtype])
    key = Code(dump(("storage", kind, "0", "cpu", array.size)) + b"Q")
    tensors = Tensors()
    tensors(array)
    blob = torch_legacy(key, tensors)
    storage = call("torch.storage", "_load_from_bytes", blob)
    strides = tuple(s // array.itemsize for s in array.strides)
    hooks = call("collections", "OrderedDict")
    tensor = call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage,
        0,
        array.shape,
        strides,
        True,
        hooks,
    )
    return call("torch._utils", "_rebuild_parameter", tensor, True, hooks)


def persistent(class_name, state, source="raise RuntimeError('executed')") -> Code:
    meta = {
        "type": "class",
        "version": 6,
        "module_src": source,
        "class_name": class_name,
        "state": state,
    }
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "weight": rng.normal(size=(3, 4)).astype(np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "brain": rng.normal(size=(2, 2)).astype(ml_dtypes.bfloat16),
        "steps": np.arange(3),
    }


def edm_pickle() -> bytes:
    """Like EDM's snapshots: {"ema": a network with a module and numpy numbers}."""
    double = build(
        call("numpy", "dtype", "f8", False, True),
        (3, "<", None, None, None, -1, -1, 0),
    )
    number = call("numpy.core.multiarray", "scalar", double, struct.pack("<d", 0.5))
    inner = build(
        Code(name("torch.nn.modules.container", "ModuleDict") + b")\x81"),
        {"_parameters": {"weight": parameter(arrays()["weight"])}},
    )
    state = {"sigma_data": number, "_modules": {"model": inner}}
    return stream({"ema": persistent("EDMPrecond", state)})


def seeds() -> dict[str, bytes]:
    """{kind: a small sound file}."""
    tensors, more = Tensors(), Tensors()
    plain = arrays()
    return {
        "torch-zip": torch_zip({k: tensors(v) for k, v in plain.items()}, tensors),
        "torch-legacy": torch_legacy({k: more(v) for k, v in plain.items()}, more),
        "pickle": edm_pickle(),
        "msgpack": flax.serialization.msgpack_serialize(
            {"params": plain, "step": 3, "rate": np.float32(0.5)}
        ),
        "safetensors": safetensors.numpy.save(
            {k: v for k, v in plain.items() if k != "brain"}, {"made": "by hand"}
        ),
    }
