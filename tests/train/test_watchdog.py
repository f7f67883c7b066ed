"""A run that hangs ends with code 6 and says where it stood."""

import logging
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from kdiff_jax.train import watchdog

PROGRAM = """
import time
from kdiff_jax.train import watchdog
with watchdog.watch("stage 'teacher'", {minutes}):
    for _ in range({beats}):
        time.sleep(0.2)
        watchdog.beat()
    {slow}({silence})
print("went on")
"""
# As JAX compiles: a function of this file stands on the main thread's stack.
COMPILES = """
code = compile("def slow(seconds): time.sleep(seconds)", {file!r}, "exec")
exec(code, globals())
"""


def run(compiles="", **numbers):
    start = COMPILES.format(file=compiles) if compiles else "slow = lambda s: s"
    slow = "slow" if compiles else "time.sleep"
    program = "import time\n" + start + PROGRAM.format(slow=slow, **numbers)
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


def test_a_compilation_is_no_hang_and_what_follows_may_be_one():
    compiler = "/lib/jax/_src/compiler.py"
    assert "went on" in run(compiler, minutes=0.01, beats=0, silence=2).stdout
    other = run("/lib/jax/_src/array.py", minutes=0.01, beats=0, silence=60)
    assert other.returncode == 6


def test_an_inner_watch_holds_and_gives_way_to_the_outer_one():
    program = """
import time
from kdiff_jax.train import watchdog
with watchdog.watch("sample", 0.02):
    with watchdog.watch("stage", 0):
        time.sleep(2)
    print("went on", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "went on" in done.stdout and done.returncode == 6
    assert "sample: nothing happened" in done.stderr


def test_jax_compiles_in_the_files_that_are_watched_for(monkeypatch):
    """Those that trace, those that lower, and the one that compiles, by themselves."""

    @jax.jit
    def long(x):
        for i in range(60):
            x = jnp.sin(x) @ x + i
        return x

    def seen(work):
        """Asks at every call: a thread that asks may get no turn in between."""
        found = []

        def look(*_):
            if not found and watchdog._compiling():
                found.append(True)

        sys.setprofile(look)
        try:
            result = work()
        finally:
            sys.setprofile(None)
        return bool(found), result

    trace, lower, compile_ = watchdog.COMPILER
    monkeypatch.setattr(watchdog, "COMPILER", (trace,))
    known, traced = seen(lambda: long.trace(jnp.ones((8, 8))))
    assert known
    monkeypatch.setattr(watchdog, "COMPILER", (lower,))
    known, lowered = seen(lambda: traced.lower())
    assert known
    monkeypatch.setattr(watchdog, "COMPILER", (compile_,))
    known, compiled = seen(lambda: lowered.compile())
    assert known
    assert not seen(lambda: compiled(jnp.ones((8, 8))))[0]


def test_a_compilation_is_told_once_it_has_taken_long_and_once_alone():
    slow, last = watchdog.Slow(), watchdog.TOLD_AFTER
    assert not slow.is_news(100.0, "step")
    assert not slow.is_news(100.0 + last - 1, "step")
    assert slow.is_news(100.0 + last, "step")
    assert not slow.is_news(100.0 + last + 1, "step")
    assert not slow.is_news(200.0, None)
    assert not slow.is_news(300.0, "step") and not slow.is_news(400.0, "step")


def test_short_compilations_in_turn_are_no_long_one():
    slow = watchdog.Slow()
    seen = ["step", None, "step", "sampler", "step"]
    times = [0.9 * watchdog.TOLD_AFTER * i for i in range(len(seen))]
    assert not any(map(slow.is_news, times, seen))


@pytest.fixture
def told(monkeypatch, caplog):
    """A function that runs a program, and what is told while it is compiled."""
    monkeypatch.setattr(watchdog, "TOLD_AFTER", 0.0)
    caplog.set_level(logging.INFO, logger=watchdog.__name__)
    said, tell = threading.Event(), watchdog._tell

    def spy(name, what):
        tell(name, what)
        said.set()

    monkeypatch.setattr(watchdog, "_tell", spy)

    def run(name):
        @jax.jit
        def waits(x):
            assert said.wait(60), "nothing is told while it is compiled"
            return x + 1

        with watchdog.watch(name, minutes=0.0), watchdog.program("the step"):
            waits(1.0)
        return caplog.messages

    return run


def test_a_stage_says_what_it_compiles_before_that_has_ended(told):
    folder = jax.config.jax_compilation_cache_dir
    kept = f"; kept in {folder} for later runs" if folder else ""
    line = f"a stage: compiling the step (the first time may take minutes{kept})"
    assert told("a stage") == [line]


def test_only_the_first_host_says_it(told, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert told("a stage of another host") == []
