"""A process that ends from a thread: its line, its code, and what is done before."""

import subprocess
import sys

PROGRAM = """
import threading, time
from kdiff_jax import ending
ending.before(lambda code: print("told", code, flush=True))
ending.before(lambda code: 1 / 0)
for _ in range(2):
    threading.Thread(target=ending.at_once, args=("one  line", 7)).start()
time.sleep(60)
"""


def test_of_two_threads_one_ends_it_whatever_fails():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 7
    assert done.stderr == "kdiff_jax: one line\n"
    assert done.stdout == "told 7\n"


def test_a_line_that_was_just_said_is_not_said_again():
    code = "from kdiff_jax import ending; ending.say('x'); ending.at_once('x', 8)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (8, "kdiff_jax: x\n")
