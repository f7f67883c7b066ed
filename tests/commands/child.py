"""Runs the commands as a user does: in a process of their own."""

import functools
import importlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

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


@functools.cache
def server():
    """What makes copies of a process that has imported `forked`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked"])
    path = f"{ROOT}:{ROOT / 'tests'}:{pathlib.Path(__file__).parent}"
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        multiprocessing.forkserver.ensure_running()
    return context


class Copy:
    """A copy that runs a function of `forked`, with the methods of a `Popen`."""

    def __init__(self, function: str, module: str, words: list, devices: int):
        number, self.output = tempfile.mkstemp()
        os.close(number)
        arguments = (function, module, words, environment(devices), self.output)
        self.process = server().Process(target=_in_copy, args=arguments)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """(what it wrote, nothing), once it has ended."""
        self.process.join(timeout)
        text = pathlib.Path(self.output).read_text()
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.output, timeout, text)
        os.unlink(self.output)
        return text, None


def _in_copy(function: str, *arguments) -> None:
    getattr(importlib.import_module("forked"), function)(*arguments)


def start(module: str, *arguments: str, devices: int = 1, anew: bool = False):
    """`python -m kdiff_jax.MODULE ARGUMENTS`, output captured.

    Args:
        module: Name of the command.
        *arguments: Words of the command line.
        devices: Number of pretend devices.
        anew: Begin a new interpreter, as a user does; else a copy of one that has
            imported what the commands do, which saves three seconds.
    """
    if not anew:
        return Copy("run", module, list(arguments), devices)
    return subprocess.Popen(
        [sys.executable, "-m", f"kdiff_jax.{module}", *arguments],
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(module: str, *arguments: str, **how) -> tuple[int, str]:
    """(exit code, output); see `start` for `how`."""
    process = start(module, *arguments, **how)
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def run_lines(module: str, lines: list[list[str]]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each command line, all in one process."""
    process = Copy("run_lines", module, lines, 1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return [tuple(answer) for answer in json.loads(output)]


def stop_when(process, ready, number=signal.SIGKILL) -> tuple[int, str]:
    """Sends a signal as soon as `ready()`; returns (exit code, output)."""
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None, process.communicate(timeout=1)[0]
        assert time.monotonic() < deadline, "what should happen first never did"
        time.sleep(0.002)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output
