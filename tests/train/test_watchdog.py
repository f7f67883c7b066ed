"""A run that hangs ends with code 6 and says where it stood."""

import subprocess
import sys

PROGRAM = """
import time
from kdiff_jax.train import watchdog
with watchdog.watch("teacher", {minutes}):
    for _ in range({beats}):
        time.sleep(0.2)
        watchdog.beat()
    time.sleep({silence})
print("went on")
"""


def run(**numbers):
    program = PROGRAM.format(**numbers)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_silence_ends_the_run_with_stacks_and_a_line():
    done = run(minutes=0.01, beats=0, silence=60)
    assert done.returncode == 6
    assert "stage 'teacher': nothing happened" in done.stderr
    assert "most recent call first" in done.stderr


def test_signs_of_life_and_minutes_0_keep_it_going():
    assert "went on" in run(minutes=0.02, beats=10, silence=0).stdout
    assert "went on" in run(minutes=0, beats=0, silence=2).stdout
