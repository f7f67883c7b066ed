"""Whatever a checkpoint is called, its content says what it is."""

import hashlib
import os
import pickle

import flax.serialization
import ml_dtypes
import msgpack
import numpy as np
import pytest
import safetensors.numpy
import streams

from kdiff_jax import arrays
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, msgpack_files
from kdiff_jax.formats.lazy import Lazy

SEEDS = streams.seeds()


def refused(path, data) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        containers.open(path)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{path}: ") and len(line) < 500
    return line


@pytest.mark.parametrize("kind", SEEDS)
def test_kinds(kind, tmp_path):
    path = tmp_path / "no_suffix"
    path.write_bytes(SEEDS[kind])
    container = containers.open(path)
    assert container.kind == kind
    assert container.sha256 == hashlib.sha256(SEEDS[kind]).hexdigest()
    assert container.metadata == ({"made": "by hand"} if kind == "safetensors" else {})
    tree = container.content
    if kind == "pickle":
        tree = tree["ema"].state["_modules"]["model"].state["_parameters"]
    tree = tree.get("params", tree)
    for key, leaf in tree.items():
        assert type(leaf) is Lazy
        np.testing.assert_array_equal(leaf.read(), streams.arrays()[key])


@pytest.mark.parametrize("protocol", range(6))
def test_protocols(protocol, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps({"a": 1}, protocol))
    container = containers.open(path)
    assert (container.kind, container.content) == ("pickle", {"a": 1})


def test_a_header_that_starts_like_a_pickle(tmp_path):
    """A header of 640 bytes: 0x80 0x02."""
    array = {"a": np.ones(2, np.float32)}
    data = safetensors.numpy.save(array, {"pad": ""})
    short = 640 - int.from_bytes(data[:8], "little")
    data = safetensors.numpy.save(array, {"pad": "x" * short})
    assert data[:2] == b"\x80\x02"
    path = tmp_path / "x"
    path.write_bytes(data)
    assert containers.open(path).kind == "safetensors"


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n\n<html lang=en>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git-lfs"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'{"a": 1}', "JSON"),
        (b"MZ\x90\x00\n\x1b[31m", "starts with b'MZ"),
        (b"\x00", "starts with"),
        (b"(not a pickle", "starts with"),
        (b"(not a pickle.", "damaged"),
        (b"\x80\x02", "damaged"),
    ],
)
def test_what_it_is_not(data, words, tmp_path):
    line = refused(tmp_path / "x", data)
    assert words in line
    assert "\x1b" not in line


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="give safetensors"):
            containers.open(path)


@pytest.mark.parametrize("kind", SEEDS)
def test_cuts_are_refused(kind, tmp_path):
    data = SEEDS[kind]
    for end in {*range(12), *range(12, len(data), len(data) // 60)}:
        refused(tmp_path / "x", data[:end])


def test_flax_reads_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    tree = {
        "params": {
            "w": np.arange(24, dtype=np.float32).reshape(4, 6),  # in six pieces
            "brain": np.arange(4).astype(ml_dtypes.bfloat16),
            "flags": np.array([True, False]),
            "none": np.zeros((0, 2), np.float32),
            "number": np.ones((), np.float16),
        },
        "step": 7,
        "rate": np.float32(0.5),
        "complex": 1 + 2j,
        "text": "\u00e4",
        "list": [1, None, True],
    }
    data = flax.serialization.msgpack_serialize(tree)
    assert b"chunked" in data
    got = msgpack_files.load(data)
    for key, array in tree["params"].items():
        assert got["params"][key].dtype == array.dtype
        assert got["params"][key].shape == array.shape
        np.testing.assert_array_equal(got["params"][key].read(), array)
    assert {k: v for k, v in got.items() if k != "params"} == {
        k: v for k, v in tree.items() if k != "params"
    }
    assert got["rate"] == 0.5


def packed(value) -> bytes:
    return msgpack.packb(value, use_bin_type=True)  # type: ignore[return-value]


def array(shape, dtype, data, code=1):
    return msgpack.ExtType(code, packed((shape, dtype, data)))


def pieces(shape, *chunks):
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(shape)},
        "chunks": {str(i): c for i, c in enumerate(chunks)},
    }


PIECE = array((2,), "float32", bytes(8))
NESTED: dict = {}
for _ in range(150):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    "value",
    [
        array((2,), "float32", bytes(4)),
        array((2**40,), "float32", b""),
        array((0, 2**62, 2**62), "float32", b""),
        array((-1,), "float32", b""),
        array((1,) * 33, "float32", bytes(4)),
        array((1.0,), "float32", bytes(4)),
        array(1, "float32", bytes(4)),
        array((1,), "object", bytes(8)),
        array((1,), "O", bytes(8)),
        array((1,), "U8", bytes(32)),
        array((1,), "float32,float32", bytes(8)),
        array((1,), None, bytes(8)),
        array((1,), "float32", "text"),
        array((2,), "float32", bytes(8), code=3),
        array((2,), "float32", bytes(8), code=4),
        msgpack.ExtType(1, b""),
        msgpack.ExtType(1, packed([1, 2])),
        msgpack.ExtType(2, packed([1, 2])),
        msgpack.ExtType(1, packed([[[[1]]], "float32", b""])),
        msgpack.Timestamp(1, 0),
        pieces((5,), PIECE, PIECE),
        pieces((2**40,), PIECE),
        pieces((-1, -2), PIECE),
        pieces((4,), PIECE, array((2,), "int32", bytes(8))),
        pieces((0,)),
        pieces((2,), 1),
        {"__msgpack_chunked_array__": True},
        {"__msgpack_chunked_array__": True, "shape": [2], "chunks": [PIECE]},
        {1: 2},
        {b"a": 2},
        NESTED,
        [0] * 2000,
    ],
)
def test_msgpack_that_is_refused(value, tmp_path):
    refused(tmp_path / "x", packed({"params": value}))


def test_msgpack_is_counted(tmp_path, monkeypatch):
    data = packed({"a": {str(i): {} for i in range(500)}})
    msgpack_files.load(data)
    monkeypatch.setattr(msgpack_files, "MAX_NODES", 400)
    assert "entries" in refused(tmp_path / "x", data)
    monkeypatch.setattr(msgpack_files, "MAX_MAP", 400)
    assert "damaged" in refused(tmp_path / "x", data)


def test_msgpack_of_countless_empty_leaves_is_refused(tmp_path):
    """By its real limits: half a million of them took minutes and gigabytes."""
    many = {str(i): {str(j): {} for j in range(40_000)} for i in range(6)}
    assert "it has over 200000 entries" in refused(tmp_path / "x", packed(many))
    one = {"a": {str(i): 0 for i in range(50_001)}}
    assert "damaged" in refused(tmp_path / "x", packed(one))


def test_msgpack_larger_than_the_memory_is_refused_unread(tmp_path, monkeypatch):
    data = packed({"a": 1, "pad": "x" * 100})
    monkeypatch.setattr(arrays, "memory", lambda: len(data))
    msgpack_files.load(data)
    monkeypatch.setattr(arrays, "memory", lambda: len(data) - 1)
    line = refused(tmp_path / "x", data)
    assert "GB are read whole" in line and "on a larger machine" in line


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "net.pkl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="net.pkl: not a regular file; give"):
        containers.open(path)
