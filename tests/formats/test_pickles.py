"""Pickles are data: what is allowed comes out as it was, the rest is refused."""

import collections
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import streams

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, pickles, torch_files, torch_modules
from kdiff_jax.formats.lazy import Lazy

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"

TREE = {
    "plain": [1, -5, 2**70, 2.5, None, True, "text \u00e4 \U0001f600", (), (1, (2,))],
    "bytes": b"\x00\xff" * 10,
    "long": b"\x01" * 5000,
    "none": b"",
    "array": bytearray(b"ab"),
    "set": {1, "a"},
    "frozen": frozenset([2]),
    "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
    7: "seven",
    "scalar": np.float64(0.25),
    "int": np.int32(7),
}


def load(data, **more):
    value, _ = pickles.load(data, globals=torch_files.GLOBALS, **more)
    return value


def refused(data) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(data)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(protocol):
    assert load(pickle.dumps(TREE, protocol)) == TREE


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("old", [False, True])
def test_numpy_arrays(protocol, old):
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big": np.arange(4, dtype=">i4"),
        "empty": np.zeros((0, 3), np.float16),
        "bool": np.array([True, False]),
    }
    data = pickle.dumps(arrays, protocol)
    if old and protocol < 4:  # names in frames of a known length cannot be exchanged
        data = data.replace(b"numpy._core", b"numpy.core")
    got = load(data)
    for key, array in arrays.items():
        assert type(got[key]) is Lazy
        assert (got[key].shape, got[key].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(got[key].read(), array)
        assert got[key].read().flags.writeable


def test_where_a_stream_ends():
    data = pickle.dumps([1]) + pickle.dumps("next")
    _, end = pickles.load(data, globals={})
    assert pickles.load(data[end:], globals={}) == ("next", len(data) - end)


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_leaves_no_trace(protocol, tmp_path):
    trace = tmp_path / "trace"

    class Command:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    data = pickle.dumps({"weights": Command()}, protocol)
    assert f"{os.system.__module__}.system" in refused(data)
    assert not trace.exists()
    pickle.loads(data)
    assert trace.exists()  # it would have worked


NAMES = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("__builtin__", "exec"),
    ("builtins", "getattr"),
    ("subprocess", "Popen"),
    ("torch", "load"),
    ("torch.nn.modules.container", "ModuleDict.__init__.__globals__"),
    ("torch.nn.modules", "container.os.system"),
    ("torch.nn.modules.container ModuleDict", "x"),
    ("numpy.core.multiarray", "_reconstruct.__self__"),
    ("collections", "OrderedDict.fromkeys"),
    ("kdiff_jax.formats.pickles", "load"),
    ("dill._dill", "_create_function"),
    ("dill._dill", "_import_module"),
]


@pytest.mark.parametrize("module, name", NAMES)
def test_names_off_the_list(module, name):
    shown = name
    assert shown in refused(streams.stream(streams.name(module, name)))
    stacked = streams.Code(streams.dump(module) + streams.dump(name) + b"\x93")
    assert shown in refused(streams.stream(stacked))
    instance = streams.Code(f"(X\1\0\0\0ai{module}\n{name}\n".encode())
    assert shown in refused(streams.stream(instance))
    # Inside of something that is allowed, and inside of its arguments.
    inner = streams.call(module, name, "x")
    assert shown in refused(
        streams.stream({"a": [streams.call("torch", "Size", inner)]})
    )


OD = streams.call("collections", "OrderedDict")
STATE = {"x": 1}
BAD = {
    "a name that is no string": b"\x80\x04NN\x93.",
    "a name that is no string ": b"\x80\x04](X\2\0\0\0oseX\6\0\0\0system\x93.",
    "no string": streams.stream(
        streams.Code(
            streams.call("_codecs", "encode", "os", "latin1")
            + streams.dump("system")
            + b"\x93"
        )
    ),
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "state of a list": streams.stream(streams.build(streams.Code(b"]"), STATE)),
    "state of a dict": streams.stream(streams.build(OD, STATE)),
    "state of a Global": streams.stream(
        streams.build(streams.name("torch", "Size"), STATE)
    ),
    "calls torch.float32": streams.stream(streams.call("torch", "float32", 1)),
    "calls builtins.object": streams.stream(streams.call("builtins", "object")),
    "calls a list": b"\x80\x02])R.",
    "calls text": b"\x80\x02X\4\0\0\0text)R.",
    "a tuple as a key": b"\x80\x02}))s.",
    "a list as a key": b"\x80\x02}]Ns.",
    "a float as a key": b"\x80\x02}G" + bytes(8) + b"Ns.",
    "a tuple as a key ": b"\x80\x04\x8f()\x90.",
    "recalls object 9": b"\x80\x02h\x09.",
    "object 4294967295 out of turn": b"\x80\x02Nr\xff\xff\xff\xff.",
    "holds itself": b"\x80\x02]q\x00h\x00a.",
    "holds itself ": b"\x80\x02}q\x00K\x01h\x00s.",
    "never gave": b"\x80\x02\x85.",
    "never made": b"\x80\x02t.",
    "unfinished": b"\x80\x02((.",
    "unfinished ": b"\x80\x02NN.",
    "PROTO 6": b"\x80\x06N.",
    "over 127 bits": b"\x80\x02\x8a\x20" + b"\x7f" * 32 + b".",
    "outside of it": b"\x80\x02NQ.",
    "with keywords": b"\x80\x04ctorch\nSize\n)}X\1\0\0\0aNs\x92.",
    "no dict": b"\x80\x02]NNs.",
    "no set": b"\x80\x04](\x90.",
    "without a value": b"\x80\x02}(Nu.",
    "numpy type O8": streams.stream(streams.call("numpy", "dtype", "O8", False, True)),
    "numpy type with fields": streams.stream(
        streams.build(
            streams.call("numpy", "dtype", "f4"),
            (3, "|", None, ("a",), {}, 4, 1, 0),
        )
    ),
    "no content": streams.stream(
        streams.call("numpy.core.multiarray", "_reconstruct", None, (0,), b"b")
    ),
    "8 bytes cannot be": streams.stream(
        streams.call(
            "numpy.core.multiarray",
            "scalar",
            streams.call("numpy", "dtype", "f4"),
            bytes(8),
        )
    ),
    "no list": streams.stream(streams.call("builtins", "set", "ab")),
    "no pair": streams.stream(streams.call("collections", "OrderedDict", [(1, 2, 3)])),
    "asks dill for CodeType": streams.stream(
        streams.call("dill._dill", "_load_type", "CodeType")
    ),
    "asks dill for eval": streams.stream(
        streams.call("dill.dill", "_load_type", "eval")
    ),
    "asks dill for a list": streams.stream(
        streams.call("dill._dill", "_load_type", ["set"])
    ),
    "calls builtins.object ": streams.stream(
        streams.Code(streams.call("dill._dill", "_load_type", "object") + b")R")
    ),
    "cannot take": streams.stream(streams.call("torch", "Size", 1, 2, 3)),
}


@pytest.mark.parametrize("words", BAD)
def test_refused(words):
    assert words.strip() in refused(BAD[words])


def test_a_class_may_be_a_key_as_in_the_states_of_trainers():
    """Files of Stable Diffusion 1.x have such a dict, of callbacks by their class."""
    named = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    found = load(b"}" + named + b"I3\ns.")
    assert [str(key) for key in found] == [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    ]
    assert list(found.values()) == [3]


def test_a_builtin_type_by_dill_is_that_type():
    made = streams.Code(
        streams.call("dill._dill", "_load_type", "set") + b"](K\1e\x85R"
    )
    assert load(streams.stream(made)) == {1}


def test_a_damaged_pickle_by_dill_is_read_or_refused(tmp_path):
    """Flipped bits, cuts and exchanged bytes; nothing but our own error comes out."""
    sound = (DATA / "class_table_lookalike.pkl").read_bytes()
    rng, refusals = np.random.default_rng(0), 0
    for trial in range(300):
        data = bytearray(sound)
        at = int(rng.integers(len(data)))
        if trial % 3 == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif trial % 3 == 1:
            del data[at:]
        else:
            data[at] = int(rng.integers(256))
        path = tmp_path / f"{trial}.pkl"
        path.write_bytes(data)
        try:
            torch_modules.arrays(containers.open(path).content)["embed.weight"].read()
        except (CheckpointError, KeyError):
            refusals += 1
    assert 150 < refusals < 300


def test_every_cut_is_refused():
    data = pickle.dumps(TREE, 4)
    for end in range(len(data)):
        if not 100 < end < len(data) - 500 or end % 50 == 0:
            refused(data[:end])


def test_metadata_of_weights_is_left_out():
    weights = streams.call("collections", "OrderedDict", [["a", 1]])
    data = streams.stream(streams.build(weights, {"_metadata": OD}))
    assert load(data) == {"a": 1}


def test_stand_ins():
    module = streams.name("torch.nn.modules.container", "ModuleDict")
    made = streams.Code(module + b")\x81")
    stub = load(streams.stream(streams.build(made, {"training": False})))
    assert (stub.module, stub.name) == ("torch.nn.modules.container", "ModuleDict")
    assert (stub.state, stub.items) == ({"training": False}, {})
    easy = streams.Code(streams.name("dnnlib.util", "EasyDict") + b")\x81")
    filled = streams.Code(easy + b"X\1\0\0\0aK\1s")
    assert load(streams.stream(filled)).items == {"a": 1}
    old = streams.call(
        "copy_reg",
        "_reconstructor",
        streams.name("dnnlib.util", "EasyDict"),
        streams.name("__builtin__", "dict"),
        {"b": 2},
    )
    assert load(streams.stream(old)).items == {"b": 2}


def test_depth_and_aliasing_are_bounded():
    assert load(b"\x80\x02" + b"(" * 150 + b"t" * 150 + b".")
    assert "deep" in refused(b"\x80\x02" + b"(" * 300 + b"t" * 300 + b".")
    # Small lists, each holding the one before twice: 2**40 of them to whoever walks.
    doubled = b"".join(
        b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(40)
    )
    assert "entries" in refused(b"\x80\x02N" + doubled + b".")
    # Depth that arises after the containers were put into each other.
    chain = b"".join(b"]q" + bytes([i]) + b"0" for i in range(250))
    links = b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i + 1]) + b"a0" for i in range(249)
    )
    assert "deep" in refused(b"\x80\x02" + chain + links + b"h\x00.")


def test_copies_are_bounded():
    """One text of 100 kB, encoded a thousand times, would be 100 MB."""
    text = streams.dump("x" * 100_000) + b"q\x000"
    encode = b"c_codecs\nencode\nh\x00\x85R0"
    assert "over and over" in refused(b"\x80\x02" + text + encode * 1000 + b"N.")
    pairs = streams.dump([(i, i) for i in range(1000)]) + b"q\x000"
    copy = b"ccollections\nOrderedDict\nh\x00\x85R0"
    assert "over and over" in refused(b"\x80\x02" + pairs + copy * 1000 + b"N.")


def test_number_of_steps_is_bounded(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_OPS", 1000)
    assert load(b"\x80\x02" + b"N0" * 400 + b"N.") is None
    assert "steps" in refused(b"\x80\x02" + b"N0" * 600 + b"N.")


BOMBS = r"""
    import resource, struct, sys, time
    from kdiff_jax.errors import CheckpointError
    from kdiff_jax.formats import containers
    path = sys.argv[1]
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    big = (2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
    heads = [b"\x80\x04" + c for c in (b"B", b"X", b"T", b"\x8b")]
    long_heads = [b"\x80\x05" + c for c in (b"\x8e", b"\x8d", b"\x96", b"\x95")]
    inputs = [h + struct.pack("<I", n) + b"abc." for h in heads for n in big[:3]]
    inputs += [h + struct.pack("<Q", n) + b"abc." for h in long_heads for n in big]
    inputs += [b"\x80\x02r" + b"\xff" * 4, b"(I" + b"9" * 100000 + b"\n."]
    # msgpack: lists, maps, bytes, text and extensions of 4 billion.
    inputs += [b"\x81\xa1a" + c + b"\xff" * 4 + b"\x01" for c in b"\xdd\xdf\xc6\xdb\xc9"
               for c in [bytes([c])]]
    inputs += [b"\xdf" + b"\xff" * 4, b"\x81\xa1a" + b"\xdd\0\1\0\0" * 20000]
    inputs += [b"\x81\xa1a" * 20000, b"\x81\xa1a" + b"\x91" * 20000]
    inputs += [struct.pack("<Q", n) + b"{" + b" " * 100 for n in (10**8 + 1, 2**39)]
    inputs += [b"\x80\x02" + b"]" * 500_000, b"\x80\x02" + b"(" * 500_000]
    worst = 0
    for data in inputs:
        open(path, "wb").write(data)
        start = time.perf_counter()
        try:
            containers.open(path)
            raise SystemExit(f"accepted {data[:20]}")
        except CheckpointError as error:
            assert "\n" not in str(error)
        worst = max(worst, time.perf_counter() - start)
    print(len(inputs), worst)
"""


def test_claimed_lengths_reserve_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BOMBS), str(tmp_path / "bomb")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_window_is_a_file():
    data = b"first\nsecond line" + bytes(1000) + b"\nlast"
    window, file = pickles.Window(data), io.BytesIO(data)
    for _ in range(4):
        assert window.readline() == file.readline()
    assert window.seek(-4, 2) == file.seek(-4, 2)
    assert window.read() == file.read() == b"last"
    assert window.tell() == len(data) and window.read(5) == b""


def test_long_bytes_are_not_copied():
    blob = bytes(10_000)
    data = b"\x80\x03B" + struct.pack("<I", len(blob)) + blob + b"."
    value = load(data)
    assert isinstance(value, memoryview) and value.obj is data
