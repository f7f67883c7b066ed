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

from absl import flags

from kdiff_jax import command, output
from kdiff_jax.checkup import checks

WORKDIR = flags.DEFINE_string("workdir", "runs", "Folder of a run, there or not yet.")
JSON = flags.DEFINE_bool("json", False, "Print JSON, for a bug report.")
MINUTES = 5.0  # that one check may take, where --hang_minutes says nothing


def main() -> int:
    workdir = output.expanded("--workdir", WORKDIR.value).absolute()
    minutes = MINUTES if command.HANG.value is None else command.HANG.value
    found = []
    for one in checks.findings(workdir, minutes, start=command.start_distributed):
        found.append(one)
        if not JSON.value and _talks():
            print(output.printable(one.line()), flush=True)
    code = next((one.exit_code for one in found if one.exit_code), 0)
    if JSON.value and _talks():
        known = {str(workdir): "WORKDIR", str(WORKDIR.value): "WORKDIR"}
        print(json.dumps(checks.report(found, code, known), indent=1))
    return code


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
