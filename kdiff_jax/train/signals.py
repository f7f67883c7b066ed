"""A signal asks to stop; loops poll it where everything can be saved."""

import signal
import threading

_asked = threading.Event()


def install() -> None:
    """SIGTERM and SIGINT set a flag; a second SIGINT interrupts at once."""

    def ask(number, frame):
        del frame
        if number == signal.SIGINT and _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _asked.is_set()


def reset() -> None:
    """Forgets the signal; for tests, and for callers that run several jobs."""
    _asked.clear()
