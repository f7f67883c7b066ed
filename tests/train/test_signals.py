"""A signal ends what has nothing unsaved at once, and waits for the rest."""

import subprocess
import sys

import pytest

# The lock stands for XLA: Python's handler runs when the main thread is back.
PROGRAM = """
import os, signal, threading, time
from kdiff_jax.train import signals
signals.install()
{hold}
def send():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.{name})
threading.Thread(target=send, daemon=True).start()
if "{hold}":
    while not signals._asked.is_set():
        time.sleep(0.01)
    print("asked", flush=True)
    {release}
    print("went on", flush=True)
else:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def run(**parts):
    program = PROGRAM.format(**{"hold": "", "release": "", **parts})
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_with_nothing_unsaved_it_ends_at_once(name):
    code, _, said = run(name=name)
    assert code == 75
    assert said == (
        "kdiff_jax: stopped; nothing is unsaved: the same command goes on from there\n"
    )


def test_with_something_unsaved_it_is_asked_for():
    code, output, _ = run(name="SIGTERM", hold="signals.hold()")
    assert code == 0 and "went on" in output


def test_a_signal_that_waited_is_obeyed_when_all_is_saved():
    code, output, said = run(
        name="SIGTERM", hold="signals.hold()", release="signals.release()"
    )
    assert code == 75 and "asked" in output and "went on" not in output
    assert "nothing is unsaved" in said


def test_a_handler_of_the_caller_is_left_alone():
    program = (
        "import os, signal, time\n"
        "from kdiff_jax.train import signals\n"
        "signals.install()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert done.returncode == 0
