"""Looks at this machine: python -m kdiff_jax.doctor [--workdir=W] [--json]

A line for each part: versions, devices, memory, the cache of compiled programs, the
processes of a run, a matrix product and a convolution against the chip's peak, room for
a workdir, and whether it gives back what is written there. Where something is off, the
next line says what to do. Nothing is left in the workdir. For several hosts start it on
all of them, as a run.

--json prints the same for a bug report, without secrets, names and paths. The exit code
is 0 if a run could start, with advice or not, else the code that it would end with.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags

from kdiff_jax import command, output
from kdiff_jax.checkup import finding, private
from kdiff_jax.checkup.finding import Finding
from kdiff_jax.files import json_text
from kdiff_jax.train import watchdog

WORKDIR = flags.DEFINE_string("workdir", "runs", "Folder of a run, there or not yet.")
JSON = flags.DEFINE_bool("json", False, "Print JSON, for a bug report.")
MINUTES = 5.0  # that one check may take, where --hang_minutes says nothing


def main() -> int:
    workdir = output.expanded("--workdir", WORKDIR.value).absolute()
    found = []
    minutes = MINUTES if command.HANG.value is None else command.HANG.value
    for one in findings(workdir, minutes):
        found.append(one)
        if not JSON.value and _talks():
            print(line(one), flush=True)
    code = next((one.exit_code for one in found if one.exit_code), 0)
    if JSON.value and _talks():
        print(json.dumps(report(found, code, workdir), indent=1))
    return code


def findings(workdir: pathlib.Path, minutes: float) -> Iterator[Finding]:
    """The findings, each as soon as it is there.

    Args:
        workdir: Folder that a run would write in.
        minutes: Time that one check may take; 0 is any.
    """
    failed: set[str] = set()
    for name, check, *needs in _checks(workdir):
        if lacking := failed.intersection(needs):
            yield finding.skip(name, f"{lacking.pop()} does not work")
            continue
        with watchdog.watch(f"the check {name!r}", minutes, "--hang_minutes"):
            found = finding.of(name, check)
        failed |= {name} if found.exit_code else set()
        if name != "JAX" or found.exit_code:
            yield found


def _checks(workdir: pathlib.Path) -> Iterator[tuple]:
    """(name, check, names of checks that must have worked), in order."""

    def start() -> Finding:
        command.start_distributed()
        return Finding("JAX", "")

    yield "JAX", start
    from kdiff_jax.checkup import machine, speed
    from kdiff_jax.checkup import workdir as storage

    yield "versions", machine.versions
    yield "devices", machine.devices, "JAX"
    yield "memory", machine.memory, "JAX"
    yield "cache", machine.cache, "JAX"
    yield "distributed", machine.distributed, "JAX"
    yield "matmul", lambda: speed.check("matmul"), "JAX"
    yield "convolution", lambda: speed.check("convolution"), "JAX"
    yield "disk", lambda: storage.disk(workdir)
    yield "write", lambda: storage.write(workdir), "JAX"
    yield "checkpoint", lambda: storage.checkpoint(workdir), "JAX", "write"


def line(one: Finding) -> str:
    """A finding for people, with its advice on a line below."""
    text = f"{one.state:8}{one.name:13}{output.printable(one.text)}"
    return text + (f"\n{'':21}-> {output.printable(one.advice)}" if one.advice else "")


def report(found: list[Finding], code: int, workdir: pathlib.Path) -> dict[str, Any]:
    """All findings in plain values that can be shown to anybody."""
    plain = json.loads(json_text([one.plain() for one in found]))
    known = {str(workdir): "WORKDIR", str(WORKDIR.value): "WORKDIR"}
    return {"findings": private.scrubbed(plain, known), "exit_code": code}


def _talks() -> bool:
    """Whether this is the process that prints."""
    import jax

    try:
        return jax.process_index() == 0
    except (RuntimeError, AssertionError, ValueError):  # no devices
        return True


def run() -> None:
    """Runs the command, see `command.run`."""
    command.run(main)


if __name__ == "__main__":
    run()
