"""What a compiler says of a program: memory, work, and what devices tell each other.

It need not be a program of devices that are there: nothing is run.
"""

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from kdiff_jax.chips import Chip
from kdiff_jax.errors import UserError


class DoesNotFit(UserError):
    """A program that needs more memory than a device has."""


class Collective(NamedTuple):
    """All collective operations of one kind in a program.

    Attributes:
        num: How many there are; one in a loop counts once.
        bytes: What they leave on a device, together.
    """

    num: int
    bytes: int


class Facts(NamedTuple):
    """What the compiler says of one program, for each device.

    Attributes:
        arguments: Bytes of what it is given.
        working: Bytes of temporaries.
        peak: Bytes at the peak: the most that it ever has.
        flops: Floating point operations, of a loop those of one turn; 0 where the
            compiler does not say.
        bytes: Bytes read and written, as if nothing stayed on the chip between two
            kernels: an upper bound, of a loop again that of one turn. 0 where the
            compiler does not say.
        collectives: Kind -> `Collective`.
        seconds: Seconds it took to lower, and to compile.
    """

    arguments: int
    working: int
    peak: int
    flops: float
    bytes: float
    collectives: Mapping[str, Collective]
    seconds: tuple[float, float]


class Bound(NamedTuple):
    """The least time that a program can take, and why.

    Attributes:
        seconds: The longest of `parts`.
        by: Its name.
        parts: Seconds of "arithmetic", "memory" and "links", each alone; without
            memory where the compiler does not say.
    """

    seconds: float
    by: str
    parts: Mapping[str, float]


def facts(lower) -> Facts:
    """Compiles a program, and asks the compiler.

    Args:
        lower: Function without arguments that returns a `jax.stages.Lowered`.

    Raises:
        DoesNotFit: If the compiler says that memory does not suffice.
    """
    began = time.monotonic()
    lowered = lower()
    middle = time.monotonic()
    try:
        compiled = lowered.compile()
    except Exception as error:  # XLA's is a RuntimeError of no kind of its own
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_asked(str(error))) from error
    end = time.monotonic()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    parts = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    written = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Facts(
        *parts,
        # The CPU's compiler knows of no peak.
        getattr(memory, "peak_memory_in_bytes", 0) or sum(parts) + written,
        max(cost.get("flops", 0.0), 0.0),
        max(cost.get("bytes accessed", 0.0), 0.0),
        collectives(compiled.as_text()),
        (middle - began, end - middle),
    )


def with_loops(facts: Facts, flops: float) -> Facts:
    """The facts with all turns of the loops, of which compilers count one.

    Bytes are taken to grow as the work does.

    Args:
        facts: What the compiler says.
        flops: Floating point operations of a device, counted from the jaxpr.
    """
    if flops <= facts.flops:
        return facts
    turns = flops / facts.flops if facts.flops else 1.0  # a GPU's counts nothing
    return facts._replace(flops=flops, bytes=turns * facts.bytes)


def _asked(error: str) -> str:
    """What the compiler says of a program that does not fit, in a few words."""
    found = re.search(r"[Uu]sed ([\d.]+\w) of ([\d.]+\w) hbm", error)
    if not found:
        found = re.search(r"([\d.]+\w) exceeds available HBM \(?([\d.]+\w)", error)
    if not found:
        return "more memory than a device has"
    return f"{found[1]}iB of memory, of {found[2]}iB"


KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
# %name = f32[8,4]{1,0} all-reduce(...), or a tuple of several; asynchronous ones begin
# with "-start", whose "-done" is not counted.
_CALL = re.compile(
    rf"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(", re.M
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, Collective]:
    """Kind -> `Collective` of a program's text."""
    found: dict[str, Collective] = {}
    for shapes, kind, start in _CALL.findall(hlo):
        arrays = _ARRAY.findall(shapes)
        if start and kind in ("all-gather", "collective-permute"):
            arrays = arrays[len(arrays) // 2 :]  # what goes in stands before it
        num, size = found.get(kind, (0, 0))
        found[kind] = Collective(num + 1, size + sum(map(_bytes, arrays)))
    return found


def _bytes(array: tuple[str, str]) -> int:
    kind, shape = array
    size = 1
    for dim in filter(None, shape.split(",")):
        size *= int(dim)
    bits = re.search(r"\d+", kind)
    return size if bits is None else -(-size * int(bits[0]) // 8)


def bound(facts: Facts, chip: Chip, *, num_devices: int, float32: bool) -> Bound:
    """The least time of a program by what the chip can do at best (a roofline).

    Args:
        facts: What the compiler says.
        chip: The accelerator.
        num_devices: Number of devices that add up gradients.
        float32: Whether the networks compute in float32.
    """
    around = (num_devices - 1) / num_devices
    # Bytes that each device sends: in a ring, of what is added up twice.
    sent = {"all-reduce": 2 * around, "reduce-scatter": num_devices - 1}
    links = sum(c.bytes * sent.get(k, around) for k, c in facts.collectives.items())
    parts = {
        "arithmetic": facts.flops / (chip.peak_float32 if float32 else chip.peak),
        **({"memory": facts.bytes / chip.bandwidth} if facts.bytes else {}),
        "links": links / chip.link,
    }
    by = max(parts, key=lambda name: parts[name])
    return Bound(parts[by], by, parts)
