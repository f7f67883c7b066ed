"""All checks of a machine, in order."""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kdiff_jax.checkup import finding, machine, private, speed
from kdiff_jax.checkup import workdir as storage
from kdiff_jax.checkup.finding import Finding
from kdiff_jax.files import json_text
from kdiff_jax.train import watchdog


def findings(
    workdir: pathlib.Path, minutes: float, *, start: Callable[[], None]
) -> Iterator[Finding]:
    """The findings, each as soon as it is there.

    Args:
        workdir: Folder that a run would write in.
        minutes: Time that one check may take; 0 is any.
        start: Starts JAX, as commands do.
    """
    failed: set[str] = set()
    for name, check, *needs in listed(workdir, start):
        if lacking := failed.intersection(needs):
            yield finding.skip(name, f"{lacking.pop()} does not work")
            continue
        with watchdog.watch(f"the check {name!r}", minutes, "--hang_minutes"):
            found = finding.of(name, check)
        failed |= {name} if found.exit_code else set()
        if name != "JAX" or found.exit_code:
            yield found


def listed(workdir: pathlib.Path, start: Callable[[], None]) -> Iterator[tuple]:
    """(name, check, names of checks that must have worked), in order."""

    def started() -> Finding:
        start()
        return Finding("JAX", "")

    yield "JAX", started
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


def report(
    found: Sequence[Finding], code: int, known: Mapping[str, str]
) -> dict[str, Any]:
    """All findings in plain values that can be shown to anybody.

    Args:
        found: The findings.
        code: The exit code.
        known: Paths that were given -> what to write in their place.
    """
    plain = json.loads(json_text([one.plain() for one in found]))
    return {"findings": private.scrubbed(plain, known), "exit_code": code}
