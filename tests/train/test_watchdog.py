"""A run that hangs ends with code 6 and says where it stood."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp

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
        found, done = [], threading.Event()

        def look():
            while not done.is_set():
                found.append(watchdog._compiling())

        thread = threading.Thread(target=look)
        thread.start()
        result = work()
        done.set()
        thread.join()
        return any(found), result

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
