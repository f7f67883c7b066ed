"""A signal asks to stop; loops poll it where everything can be saved."""

import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

_asked = threading.Event()


def install() -> None:
    """SIGTERM and SIGINT set a flag; a second SIGINT interrupts at once.

    To be called again after `jax.distributed.initialize`, which takes SIGTERM too.
    """

    def ask(number, frame):
        del frame
        if number == signal.SIGINT and _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)


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
