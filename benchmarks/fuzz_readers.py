"""Reads broken and hostile checkpoints, and counts what comes out.

    python benchmarks/fuzz_readers.py --inputs=100000

Sound small files of each kind are damaged at random (bits, runs of bytes, lengths,
pieces of each other, opcodes), and pickles of random opcodes are made. Each is opened
and all of its arrays are read. The only exception that may come out is
CheckpointError with one line; memory is limited; each input is to take little time.
"""

import argparse
import json
import pathlib
import pickletools
import random
import resource
import struct
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests/interop"))

import streams  # noqa: E402  # pyright: ignore[reportMissingImports]

from kdiff_jax.errors import CheckpointError  # noqa: E402
from kdiff_jax.formats import containers, pickle_objects, torch_files  # noqa: E402
from kdiff_jax.formats.lazy import Lazy  # noqa: E402

OPCODES = [op.code.encode("latin1") for op in pickletools.opcodes]
NAMES = [
    *torch_files.GLOBALS,
    ("os", "system"),
    ("builtins", "eval"),
    ("torch", "load"),
]
LENGTHS = (0, 1, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit_mb", type=int, default=512, help="Beyond the start.")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    seeds = streams.seeds()
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = _address_space() + args.limit_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts, worst, began = {}, {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "input"
        for kind, data in seeds.items():
            path.write_bytes(data)
            assert containers.open(path).kind == kind
        for num in range(args.inputs):
            origin = rng.choice([*seeds, "opcodes"])
            data = _program(rng) if origin == "opcodes" else _mutant(rng, seeds, origin)
            path.write_bytes(data)
            at = time.perf_counter()
            try:
                result = _read(path)
            except CheckpointError as error:
                assert "\n" not in str(error), data
                assert len(str(error)) < 600, (data, str(error))
                result = "refused"
            except BaseException:
                print(f"input {num} from {origin}: {data!r}", flush=True)
                raise
            seconds = time.perf_counter() - at
            count = counts.setdefault(origin, {"accepted": 0, "refused": 0})
            count[result] += 1
            worst[origin] = max(worst.get(origin, 0), seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "inputs": args.inputs,
        "refused": sum(c["refused"] for c in counts.values()),
        "accepted": sum(c["accepted"] for c in counts.values()),
        "worst_seconds": round(max(worst.values()), 4),
        "peak_mb_beyond_start": (peak - start) // 1024,
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps({"by_origin": counts}))
    print(json.dumps(figures))


def _address_space() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _read(path) -> str:
    todo = [containers.open(path).content]
    while todo:
        node = todo.pop()
        if type(node) is Lazy:
            array = node.read()
            assert (array.shape, array.dtype) == (node.shape, node.dtype)
        elif isinstance(node, dict):
            todo += node.values()
        elif isinstance(node, (list, tuple)):
            todo += node
        elif isinstance(node, pickle_objects.Inert):
            todo += node.children()
    return "accepted"


def _mutant(rng, seeds, kind) -> bytes:
    data = bytearray(seeds[kind])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 40)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                other = rng.choice([*seeds.values()])
                start = rng.randrange(len(other))
                data[at:at] = other[start : start + rng.randrange(1, 200)]
            case 5:
                length = rng.choice(LENGTHS)
                code = "<Q" if rng.random() < 0.5 or length >= 2**32 else "<I"
                part = struct.pack(code, length)
                data[at : at + len(part)] = part
            case 6:
                data[at:at] = b"".join(_opcode(rng) for _ in range(rng.randrange(1, 4)))
            case 7:
                del data[at:]
        data = data or bytearray(b"\0")
    return bytes(data)


def _opcode(rng) -> bytes:
    """An opcode, mostly with an argument that fits it."""
    code = rng.choice(OPCODES)
    small = rng.randrange(8)
    match code:
        case b"c" | b"i":
            module, name = rng.choice(NAMES)
            return code + f"{module}\n{name}\n".encode()
        case b"X" | b"B" | b"T":
            text = rng.choice(("os", "system", "weight", "f4", "latin1", "b")).encode()
            length = len(text) if rng.random() < 0.9 else rng.choice(LENGTHS[:-2])
            return code + struct.pack("<I", length & 0xFFFFFFFF) + text
        case b"q" | b"h" | b"K":
            return code + bytes([small])
        case b"r" | b"j" | b"J":
            return code + struct.pack("<I", small)
        case b"I" | b"L" | b"p" | b"g" | b"P":
            return code + f"{small}\n".encode()
        case b"\x95" | b"\x8e" | b"\x8d" | b"\x96":
            return code + struct.pack("<Q", rng.choice(LENGTHS))
        case b".":
            return code if rng.random() < 0.2 else b"0"
    return code


def _program(rng) -> bytes:
    """A pickle of random opcodes, with a chance to be sound."""
    parts = [b"\x80\x04"]
    for _ in range(rng.randrange(1, 30)):
        match rng.choice("vvvvvvoooc"):
            case "v":
                parts.append(streams.dump(_value(rng, 2)))
            case "o":
                parts.append(_opcode(rng))
            case "c":
                module, name = rng.choice(NAMES)
                args = tuple(_value(rng, 2) for _ in range(rng.randrange(8)))
                parts.append(streams.call(module, name, *args))
    # Everything on the stack in one tuple is a sound end.
    if rng.random() < 0.7:
        parts = [parts[0], b"(", *parts[1:], b"t"]
    return b"".join(parts) + b"."


def _value(rng, depth):
    scalars = (0, 1, -1, 2**40, 2**100, 0.5, True, None, "a", "f4", b"", b"abcd")
    match rng.randrange(6 if depth else 3):
        case 3:
            return tuple(_value(rng, depth - 1) for _ in range(rng.randrange(4)))
        case 4:
            return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        case 5:
            return {str(k): _value(rng, depth - 1) for k in range(rng.randrange(4))}
        case 2:
            module, name = rng.choice(NAMES)
            return streams.name(module, name)
    return rng.choice(scalars)


if __name__ == "__main__":
    main()
