"""Watching as people do: once into a pipe, and on a terminal until the run is done."""

import os
import pty
import select
import subprocess
import sys
import time

import child
import numpy as np
import pytest

from kdiff_jax import sealed
from kdiff_jax.report import metrics_log
from kdiff_jax.report.grid import save_png

# In a process that must not import JAX, whose environment has no terminal's colours.
LIGHT = """
import runpy, sys
try:
    runpy.run_module("kdiff_jax.watch", run_name="__main__", alter_sys=True)
finally:
    print("heavy:", {"jax", "matplotlib", "scipy"} & set(sys.modules))
"""


def start(*words, **how):
    command = [sys.executable, "-c", LIGHT, *map(str, words)]
    environment = {**child.environment(1), "TERM": "xterm-256color", "COLUMNS": "90"}
    return subprocess.Popen(command, cwd=child.ROOT, env=environment, **how)


def once(*words):
    process = start(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "w"
    stage = {"method": {"name": "dmd"}, "train": {"num_steps": 2}}
    config = {"name": "tiny", "order": ["student"], "stages": {"student": stage}}
    sealed.write_json(folder / "config.json", {"config": config})
    lines = [{"step": 1, "loss": 3.5, "train_seconds": 1.0}]
    metrics_log.write(folder / "student/metrics.jsonl", lines)
    save_png(folder / "student/samples/1.png", np.full((8, 8, 3), 200, np.uint8))
    return folder


def everything(folder):
    found = [(p, p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")]
    return sorted(found), folder.stat().st_mtime_ns


def test_once_into_a_pipe_without_jax_and_without_a_trace(run):
    before = everything(run)
    code, output = once(run, "--once")
    assert code == 0 and "1/2" in output and "3.5" in output and "\x1b" not in output
    assert "heavy: set()" in output
    assert everything(run) == before


def test_what_is_no_run_is_one_line(tmp_path):
    code, output = once(tmp_path / "nowhere", "--once")
    assert code == 2 and output.count("\n") == 2  # with that of "heavy"
    assert f"RUN={tmp_path}/nowhere: nothing is there yet; wait for the run" in output


def test_a_terminal_shows_it_until_it_is_done(run, tmp_path):
    """From before there is a folder, over a picture in colours, to the end."""
    later = tmp_path / "later"
    ours, theirs = pty.openpty()
    process = start(later, "--every=0.5", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = read_until(ours, "waiting for the run to begin")
    run.rename(later)
    seen += read_until(ours, "▀")
    sealed.write_json(later / "student/done.json", {})
    seen += read_until(ours, "heavy: set()")
    assert process.wait(timeout=30) == 0
    assert "tiny" in seen and "not running" in seen and "Traceback" not in seen
    assert seen.rindex("\x1b[?1049l") < seen.rindex("done")  # the screen is given back


def read_until(descriptor, words, seconds=60):
    deadline, found = time.monotonic() + seconds, b""
    while words.encode() not in found:
        assert time.monotonic() < deadline, found.decode(errors="replace")
        if select.select([descriptor], [], [], 1.0)[0]:
            found += os.read(descriptor, 65536)
    return found.decode(errors="replace")
