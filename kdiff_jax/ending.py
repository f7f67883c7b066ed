"""How a process says its one line, and how it ends from a thread that is not the main.

A collective that hangs, a compilation, a read that blocks: none of them can be left by
an exception. What was saved is intact, since it must survive kill -9 as well.
"""

import os
import sys
import threading
from collections.abc import Callable

_acts: list[Callable[[int], None]] = []
_ends = threading.Lock()
_said = [""]  # the last line


def say(text: str) -> None:
    """Prints one line of this program's own; a closed or full stderr is no matter."""
    _said[0] = text
    try:
        print("kdiff_jax: " + " ".join(text.split()), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def before(act: Callable[[int], None]) -> None:
    """Has `act(exit code)` called before the process ends at once."""
    _acts.append(act)


def forget(act: Callable[[int], None]) -> None:
    """Takes back what `before` was given."""
    if act in _acts:
        _acts.remove(act)


def at_once(text: str, exit_code: int) -> None:
    """Says a line and ends the process; of several threads the first one does it.

    What the main thread has just said, as it ends by itself, is not said again.
    """
    if _ends.acquire(timeout=15):  # never released
        if text != _said[0]:
            say(text)
        now(exit_code)
    os._exit(exit_code)


def now(exit_code: int) -> None:
    """Ends the process without waiting for threads or other processes."""
    acts = threading.Thread(target=_act, args=(exit_code,), daemon=True)
    acts.start()
    acts.join(10)  # a service or a disk that hangs must not keep it
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(exit_code)


def _act(exit_code: int) -> None:
    for act in reversed(list(_acts)):
        try:
            act(exit_code)
        except Exception:  # the process ends, whatever of this still works
            continue
