"""A signal asks to stop: at once where nothing is unsaved, else where it can be saved.

Handlers in Python run between two instructions of it, so not while XLA compiles, which
may take minutes. A thread hears of signals at once: as long as nothing is unsaved, it
ends the process. Else loops poll `asked`.
"""

import os
import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdiff_jax import ending
from kdiff_jax.errors import Interrupted

_asked = threading.Event()
_unsaved = threading.Event()
_pipe: list[int] = []


def install() -> None:
    """SIGTERM and SIGINT end the process, or set a flag while something is unsaved.

    A second SIGINT interrupts at once. To be called again after
    `jax.distributed.initialize`, which takes SIGTERM too.
    """

    def ask(number, frame):
        del frame
        if number == signal.SIGINT and _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()

    if threading.current_thread() is threading.main_thread():
        _listen()
        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)


def _listen() -> None:
    """Has the system write the numbers of signals where a thread reads them."""
    if _pipe:
        return
    _pipe[:] = os.pipe()
    os.set_blocking(_pipe[1], False)
    signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)

    def hear():
        while True:
            (number,) = os.read(_pipe[0], 1)
            handled = signal.getsignal(number)
            if number in (signal.SIGTERM, signal.SIGINT) and callable(handled):
                _obey()

    threading.Thread(target=hear, name="signals", daemon=True).start()


def _obey() -> None:
    if not _unsaved.is_set():
        ending.at_once(
            "stopped; nothing is unsaved: the same command goes on from there",
            Interrupted.exit_code,
        )


def hold() -> None:
    """From here on something is unsaved, and a signal waits until it is asked for."""
    _unsaved.set()


def release() -> None:
    """All is saved again."""
    _unsaved.clear()
    if _asked.is_set() and _pipe and jax.process_count() == 1:
        _obey()


def asked() -> bool:
    """Whether any process of the job was asked to stop.

    With several processes this is a collective: all must call it at the same place, and
    all get the same answer.
    """
    if jax.process_count() == 1:
        return _asked.is_set()
    flags = multihost_utils.process_allgather(np.array(_asked.is_set()))
    return bool(np.any(flags))


def reset() -> None:
    """Forgets the signal; for tests, and for callers that run several jobs."""
    _asked.clear()
