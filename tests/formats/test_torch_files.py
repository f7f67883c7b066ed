"""Files of torch.save: tensors come out equal, and lies about them are refused."""

import io
import pathlib
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import streams
from streams import Tensors

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import pickles, torch_files, torch_modules
from kdiff_jax.formats.torch_files import Persistent

WRITERS = [streams.torch_zip, streams.torch_legacy]
BASE = np.arange(24, dtype=np.float32)


def refused(data) -> str:
    with pytest.raises(CheckpointError) as caught:
        torch_files.load(data)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize("write", WRITERS)
def test_types_and_shapes(write):
    tensors = Tensors()
    arrays = {**streams.arrays(), "number": np.array(2, np.float32)}
    arrays["none"] = np.zeros((0, 3), np.float32)
    content = {"net": {k: tensors(v) for k, v in arrays.items()}, "step": 3}
    got = torch_files.load(write(content, tensors))
    assert got["step"] == 3
    assert got["net"].keys() == arrays.keys()
    for key, array in arrays.items():
        read = got["net"][key].read()
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert (got["net"][key].dtype, got["net"][key].shape) == (
            read.dtype,
            read.shape,
        )
        np.testing.assert_array_equal(read, array)
    assert got["net"]["brain"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("write", WRITERS)
def test_strides_and_offsets(write):
    tensors = Tensors()
    content = {
        "transposed": tensors(BASE, 0, (4, 6), (1, 4)),
        "part": tensors(BASE, 7, (2, 3), (8, 2)),
        "one": tensors(BASE, 23, (1, 1), (2**62, 5)),
        "diagonal": tensors(BASE, 0, (4,), (7,)),
        "same": tensors(BASE, 3, (4,), (0,)),
    }
    got = torch_files.load(write(content, tensors))
    want = {
        "transposed": BASE.reshape(6, 4).T,
        "part": BASE[7:23].reshape(2, 8)[:, :6:2],
        "one": BASE[23:].reshape(1, 1),
        "diagonal": BASE[:22:7],
        "same": BASE[[3, 3, 3, 3]],
    }
    for key, array in want.items():
        np.testing.assert_array_equal(got[key].read(), array)
        assert got[key].read().flags.c_contiguous


LIES = {
    "beyond": (1, (24,), (1,)),
    "far": (0, (2, 2), (1, 2**40)),
    "offset": (24, (1,), (1,)),
    "negative offset": (-1, (2,), (1,)),
    "negative stride": (5, (2,), (-1,)),
    "negative size": (0, (-2,), (1,)),
    "overflow": (0, (2**62, 2**62), (0, 0)),
    "overflow beside nothing": (0, (0, 2**62, 2**62), (0, 0, 0)),
    "huge out of small": (0, (5, 5), (0, 0)),
    "ranks": (0, (2, 2), (1,)),
    "dimensions": (0, (1,) * 40, (1,) * 40),
    "fraction": (0, (2.0,), (1,)),
    "truth": (0, (True,), (1,)),
    "no numbers": ("0", (2,), (1,)),
    "no strides": (0, (2,), None),
    "nested": (0, [[2]], (1,)),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("lie", LIES)
def test_lies_of_a_tensor(write, lie):
    tensors = Tensors()
    offset, shape, strides = LIES[lie]
    code = tensors(BASE, offset, shape, strides)
    if strides is None:
        code = streams.call("torch._utils", "_rebuild_tensor", None, 0, (1,), (1,))
    assert refused(write({"a": code}, tensors))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("num", [23, 25, 2**40, -1, 2**70])
def test_lies_of_a_storage(write, num):
    tensors = Tensors()
    assert "storage" in refused(write({"a": tensors(BASE, num=num)}, tensors))


@pytest.mark.parametrize("write", WRITERS)
def test_storages_that_are_not_there(write):
    tensors = Tensors()
    content = {"a": tensors(BASE)}
    tensors.storages.clear()
    assert "storage" in refused(write(content, tensors))


@pytest.mark.parametrize(
    "key",
    [
        None,
        ("module", 1, 2, 3, 4),
        ("storage", streams.name("torch", "float32"), "0", "cpu", 24),
        ("storage", "FloatStorage", "0", "cpu", 24),
        ("storage", streams.name("torch", "FloatStorage"), 0, "cpu", 24),
        ("storage", streams.name("torch", "FloatStorage"), "0", "cpu", 24, ("1", 0, 2)),
    ],
)
def test_what_is_no_storage(key):
    tensors = Tensors()
    tensors(BASE)
    code = streams.Code(streams.dump(key) + b"Q")
    assert refused(streams.torch_zip([code], tensors))


def members(**changes) -> bytes:
    tensors = Tensors()
    return streams.torch_zip({"a": tensors(BASE)}, tensors, **changes)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "archive/../../evil", "\\evil", "a\\..\\..\\b"]
)
def test_members_outside(name):
    assert "outside" in refused(members(**{name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_twice():
    assert "twice" in refused(members(**{"archive/data/0": BASE.tobytes()}))
    assert "data.pkl" in refused(members(**{"other/data.pkl": b"."}))


def test_compressed_members():
    data = io.BytesIO(members())
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/1", bytes(10**6))
    assert "compressed" in refused(data.getvalue())


def test_overlapping_members():
    """Two entries of the directory that point to the same bytes."""
    data = members(**{"archive/data/1": BASE.tobytes()})
    entry = data.rindex(b"PK\x01\x02")
    first = data.index(b"PK\x03\x04")
    damaged = bytearray(data)
    damaged[entry + 42 : entry + 46] = struct.pack("<I", first)
    assert "not where" in refused(bytes(damaged))


def test_other_zips():
    file = io.BytesIO()
    np.savez(file, a=BASE)
    assert "data.pkl" in refused(file.getvalue())
    data = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(members())) as old,
        zipfile.ZipFile(data, "w") as new,
    ):
        for info in old.infolist():
            big = info.filename.endswith("byteorder")
            new.writestr(info.filename, "big" if big else old.read(info))
    assert "big-endian" in refused(data.getvalue())


@pytest.mark.parametrize("write", WRITERS)
def test_every_cut_is_refused(write):
    tensors = Tensors()
    data = write({k: tensors(v) for k, v in streams.arrays().items()}, tensors)
    for end in range(4, len(data), 3):
        refused(data[:end])


def test_heads_of_the_old_format():
    def old(magic=streams.MAGIC, version=1001, little=True, keys=()):
        parts = (magic, version, {"little_endian": little}, {"a": 1}, list(keys))
        return b"".join(map(streams.stream, parts))

    assert torch_files.load(old()) == {"a": 1}
    assert "magic" in refused(old(magic=1))
    assert "version" in refused(old(version=1002))
    assert "big-endian" in refused(old(little=False))
    assert "storages" in refused(old(keys=["0"]))
    assert "storages" in refused(old(keys=[0]))


def test_torchscript_is_its_attributes_and_its_code_is_not_read():
    """An archive of torch 2.13: modules in modules, parameters, buffers, numbers."""
    path = pathlib.Path(__file__).parents[1] / "parity/data/torchscript.pt"
    content = torch_files.load(path.read_bytes())
    found = torch_modules.arrays(content)
    assert {name: array.shape for name, array in found.items()} == {
        "layers.conv.weight": (4, 3, 3, 3),
        "layers.conv.beta": (4,),
        "layers.conv.mean": (4,),
        "layers.conv.var": (4,),
        "output.weight": (5, 4),
        "output.bias": (5,),
    }
    np.testing.assert_array_equal(found["layers.conv.var"].read(), np.ones(4))
    assert content.module == "__torch__" and content.name == "N"


def test_an_edm_pickle():
    content, _ = pickles.load(streams.edm_pickle(), globals=torch_files.GLOBALS)
    net = content["ema"]
    assert type(net) is Persistent and net.class_name == "EDMPrecond"
    assert net.meta["module_src"].startswith("raise")
    assert net.state["sigma_data"] == 0.5
    module = net.state["_modules"]["model"]
    assert (module.module, module.name) == ("torch.nn.modules.container", "ModuleDict")
    weight = module.state["_parameters"]["weight"]
    np.testing.assert_array_equal(weight.read(), streams.arrays()["weight"])


def test_embedded_source_never_runs(tmp_path):
    trace = tmp_path / "trace"
    source = f"open({str(trace)!r}, 'w')"
    data = streams.stream(streams.persistent("Net", {}, source))
    value, _ = pickles.load(data, globals=torch_files.GLOBALS)
    assert value.meta["module_src"] == source and not trace.exists()
    exec(source)
    assert trace.exists()  # it would have worked


@pytest.mark.parametrize(
    "code",
    [
        streams.call("torch.storage", "_load_from_bytes", b""),
        streams.call("torch.storage", "_load_from_bytes", "text"),
        streams.call("torch.storage", "_load_from_bytes", streams.stream(1)),
        streams.call("torch_utils.persistence", "_reconstruct_persistent_obj", {}),
        streams.call("torch_utils.persistence", "_reconstruct_persistent_obj", 1),
        streams.call("torch._utils", "_rebuild_parameter", 1, True, None),
        streams.call("torch.storage", "_load_from_bytes"),
    ],
)
def test_damaged_pickles(code):
    with pytest.raises(CheckpointError):
        pickles.load(streams.stream(code), globals=torch_files.GLOBALS)


def test_embedded_files_do_not_nest():
    inner = streams.call("torch.storage", "_load_from_bytes", b"x")
    blob = streams.torch_legacy(inner, Tensors())
    outer = streams.call("torch.storage", "_load_from_bytes", blob)
    with pytest.raises(
        CheckpointError, match="asks for torch.storage._load_from_bytes"
    ):
        pickles.load(streams.stream(outer), globals=torch_files.GLOBALS)
