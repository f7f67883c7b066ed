"""Runs the commands as a user does: in a process of their own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLATFORM = "cpu"
RECIPE = pathlib.Path(__file__).parent / "everything.py"


def environment(devices: int) -> dict[str, str]:
    """Variables of a process with so many pretend devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {
        **os.environ,
        "XLA_FLAGS": f"{flags} {os.environ['KDIFF_TEST_FLAGS']}",
        "JAX_PLATFORMS": PLATFORM,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }


def start(module: str, *arguments: str, devices: int = 1) -> subprocess.Popen:
    """`python -m kdiff_jax.MODULE ARGUMENTS`, output captured."""
    return subprocess.Popen(
        [sys.executable, "-m", f"kdiff_jax.{module}", *arguments],
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(module: str, *arguments: str, devices: int = 1) -> tuple[int, str]:
    """(exit code, output)."""
    process = start(module, *arguments, devices=devices)
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def run_lines(
    module: str, lines: list[list[str]], *, how: str = "together", devices: int = 1
) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each command line; see `lines` for `how`."""
    script = pathlib.Path(__file__).with_name("lines.py")
    done = subprocess.run(
        [sys.executable, script, module, how],
        input=json.dumps(lines),
        capture_output=True,
        cwd=ROOT,
        env=environment(devices),
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


def stop_when(
    process: subprocess.Popen, ready, number=signal.SIGKILL
) -> tuple[int, str]:
    """Sends a signal as soon as `ready()`; returns (exit code, output)."""
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "what should happen first never did"
        time.sleep(0.002)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output
