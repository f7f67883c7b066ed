"""Ends a run that hangs: a lost host or a stuck loader else costs hours in silence.

And says what a silence is for that is none: a program that is long in compiling.
"""

import contextlib
import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Hashable

from kdiff_jax import ending

log = logging.getLogger(__name__)

EXIT_CODE = 6
MINUTES = 60.0  # of silence, where no stage says otherwise
# XLA may take an hour. The files of JAX that trace, lower and compile.
COMPILE_MINUTES = 360.0
COMPILER = ("interpreters/partial_eval.py", "interpreters/mlir.py", "compiler.py")
TOLD_AFTER = 10.0  # seconds of compiling after which a line says so

_last = [0.0]
_program = [""]  # what the main thread is about to run, and compiles first
_watched: list[tuple[str, float, str]] = []  # as `watch` is given; the innermost last
_thread: list[threading.Thread] = []


def beat() -> None:
    """Something happened: a step, a batch of samples."""
    _last[0] = time.monotonic()


@contextlib.contextmanager
def program(name: str):
    """Names the program that this block runs, for the line of a long compilation.

    Args:
        name: What is compiled, as "the step".
    """
    before, _program[0] = _program[0], name
    try:
        yield
    finally:
        _program[0] = before


@contextlib.contextmanager
def watch(name: str, minutes: float = MINUTES, setting: str = "train.hang_minutes"):
    """Dumps every thread's stack and exits with code 6 when `beat` stays away.

    Nothing is lost but the steps since the last checkpoint; a hang inside a collective
    cannot be left in another way. Watches may be nested, and the inner one holds.

    Args:
        name: Name of the stage, for the message.
        minutes: Longest time between beats; 0 is off. A compilation may take longer,
            up to `COMPILE_MINUTES`.
        setting: What a user changes to give it more time.
    """
    beat()
    _watched.append((name, minutes, setting))
    if not _thread:
        _thread.append(threading.Thread(target=_look, name="watchdog", daemon=True))
        _thread[0].start()
    try:
        yield
    finally:
        _watched.pop()
        beat()


class Slow:
    """Finds the compilations that are worth a line, each program's once."""

    def __init__(self):
        self._compiled: Hashable = None
        self._since = 0.0
        self._told: set[Hashable] = set()

    def is_news(self, now: float, compiled: Hashable) -> bool:
        """Whether what is compiled has just become slow.

        Args:
            now: Seconds from any origin.
            compiled: What is compiled now; None where nothing is.
        """
        if compiled != self._compiled:
            self._compiled, self._since = compiled, now
        if compiled is None or compiled in self._told:
            return False
        if now - self._since < TOLD_AFTER:
            return False
        self._told.add(compiled)
        return True


def _tell(name: str, what: str) -> None:
    """Says that a program is compiled, on the first host alone."""
    import jax

    if jax.process_index() != 0:
        return
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    kept = f"; kept in {folder} for later runs" if folder else ""
    log.info("%s: compiling %s (the first time may take minutes%s)", name, what, kept)


def _look() -> None:
    compiled = 0.0  # when the main thread was last seen to compile
    slow = Slow()
    while True:
        last = name, minutes, setting = _innermost()
        time.sleep(min(1.0, 15 * minutes or 1.0))
        now, compiling, what = time.monotonic(), _compiling(), _program[0]
        inner = _innermost()  # another than before the sleep, perhaps
        if slow.is_news(now, (inner[0], what) if compiling and what else None):
            _tell(inner[0], what)
        if not minutes or inner != last:
            continue
        if compiling:
            compiled, limit = now, max(minutes, COMPILE_MINUTES)
            silent = now - _last[0]
        else:  # what was compiled is given its own time to run
            limit, silent = minutes, now - max(_last[0], compiled)
        if silent > 60 * limit:
            faulthandler.dump_traceback(all_threads=True)
            ending.at_once(
                f"{name}: nothing happened for {silent:.0f} s: a hang; what was saved"
                f" is intact: run the same command again, or raise {setting}",
                EXIT_CODE,
            )


def _innermost() -> tuple[str, float, str]:
    """In one look: the main thread may leave a watch at any time."""
    return (*_watched[-1:], ("", 0.0, ""))[0]


def _compiling() -> bool:
    """Whether the main thread stands in JAX's tracing, lowering or compilation."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/jax/_src/" in file and file.endswith(COMPILER):
            return True
        frame = frame.f_back
    return False
