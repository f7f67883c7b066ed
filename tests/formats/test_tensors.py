"""Safetensors: what is written is what the library reads, and damage is one line."""

import hashlib
import json
import struct
import weakref

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.formats.lazy import Lazy

RNG = np.random.default_rng(0)
ARRAYS = {
    "b/kernel": RNG.normal(size=(3, 4, 2)).astype(np.float32),
    "a/bytes": np.arange(5, dtype=np.uint8),
    "half": RNG.normal(size=7).astype(np.float16),
    "double": RNG.normal(size=(2, 1)),
    "steps": np.arange(3),
    "number": np.array(2.5, np.float32),
    "none": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False, True]),
    "\u00e4 \u2192 name": np.ones(1, np.float32),
}


def leaves(arrays):
    return {k: lazy.of(v) for k, v in arrays.items()}


def test_the_library_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    digest = tensors.write(path, leaves(ARRAYS), {"from": "a test"})
    data = path.read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    got = safetensors.numpy.load_file(path)
    want = safetensors.numpy.load(safetensors.numpy.save(ARRAYS))
    assert got.keys() == want.keys() == ARRAYS.keys()
    for key in ARRAYS:
        assert (got[key].dtype, got[key].shape) == (want[key].dtype, want[key].shape)
        np.testing.assert_array_equal(got[key], want[key])
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"from": "a test"}
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    offsets = {k: v["data_offsets"][0] for k, v in header.items() if k in ARRAYS}
    assert all(at % ARRAYS[key].itemsize == 0 for key, at in offsets.items())


def test_there_and_back(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {**ARRAYS, "brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16)}
    arrays["big"] = np.arange(4, dtype=">f4")
    arrays["transposed"] = np.arange(6.0).reshape(2, 3).T
    tensors.write(path, leaves(arrays), {"k": "v"})
    got, metadata = tensors.read(path)
    assert metadata == {"k": "v"} and got.keys() == arrays.keys()
    for key, array in arrays.items():
        read = got[key].read()
        assert (got[key].dtype, got[key].shape) == (read.dtype, read.shape)
        assert read.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read, array)


def test_one_leaf_at_a_time(tmp_path):
    alive, most = [], 0

    def leaf():
        nonlocal most
        array = np.zeros(1000, np.float32)
        alive.append(weakref.ref(array))
        most = max(most, sum(ref() is not None for ref in alive))
        return array

    given = {str(i): Lazy((1000,), np.dtype(np.float32), leaf) for i in range(5)}
    tensors.write(tmp_path / "x", given)
    assert len(alive) == 5 and most == 1


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.write(path, leaves({"a": np.ones(2, np.float32)}))
    before = path.read_bytes()

    def fail():
        raise OSError("gone")

    for leaf, error in (
        (Lazy((2,), np.dtype(np.float32), fail), OSError),
        (Lazy((3,), np.dtype(np.float32), lambda: np.ones(2, np.float32)), ValueError),
        (lazy.of(np.array(["text"])), CheckpointError),
    ):
        with pytest.raises(error):
            tensors.write(path, {"a": leaf, "b": leaf})
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == [path.name]


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


A = entry()
TWICE = f'{{"a":{json.dumps(A)},"a":{json.dumps(A)}}}'
BAD = {
    "truncated": ({"a": A}, 4),
    "rest": ({"a": A}, 12),
    "overlap": ({"a": A, "b": entry(offsets=(4, 12))}, 12),
    "the same": ({"a": A, "b": A}, 8),
    "hole": ({"a": A, "b": entry(offsets=(12, 20))}, 20),
    "beyond": ({"a": entry(offsets=(0, 2**40))}, 8),
    "backwards": ({"a": entry(offsets=(8, 0))}, 8),
    "other size": ({"a": entry(shape=(3,))}, 8),
    "negative": ({"a": entry(shape=(-2,))}, 8),
    "overflow": ({"a": entry(shape=(2**63, 2))}, 8),
    "overflow beside nothing": (
        {"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))},
        0,
    ),
    "dimensions": ({"a": entry(shape=(1,) * 100 + (2,))}, 8),
    "type": ({"a": entry(dtype="F99")}, 8),
    "type that numpy lacks": ({"a": entry(dtype="F8_E4M3", shape=(8,))}, 8),
    "names": (TWICE, 8),
    "no dict": ("[1]", 0),
    "no JSON": ("{" * 1000, 0),
    "deep": ('{"a":' * 100_000, 0),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case, tmp_path):
    header, num = BAD[case]
    text = header if isinstance(header, str) else json.dumps(header)
    check(tmp_path, struct.pack("<Q", len(text)) + text.encode() + bytes(num))


@pytest.mark.parametrize("size", [3, 10**8 + 1, 2**40, 2**63, 2**64 - 1])
def test_header_sizes(size, tmp_path):
    check(tmp_path, struct.pack("<Q", size) + b'{"a":' + bytes(100))


def test_every_cut_is_refused(tmp_path):
    data = safetensors.numpy.save(ARRAYS)
    for end in range(0, len(data), 7):
        check(tmp_path, data[:end])


def check(folder, data):
    path = folder / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        tensors.read(path)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(path)) and len(line) < 400


def test_hundreds_of_thousands_of_empty_arrays_are_refused_at_once(tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys((f"a{i}" for i in range(50_001)), entry)).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="it has 50001 arrays, and no network"):
        tensors.read(path)
