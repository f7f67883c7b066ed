"""Ends a run that hangs: a lost host or a stuck loader else costs hours in silence."""

import contextlib
import faulthandler
import os
import sys
import threading
import time

EXIT_CODE = 6
_last = [0.0]


def beat() -> None:
    """Something happened: a step, a batch of samples."""
    _last[0] = time.monotonic()


@contextlib.contextmanager
def watch(name: str, minutes: float):
    """Dumps every thread's stack and exits with code 6 when `beat` stays away.

    Nothing is lost but the steps since the last checkpoint; a hang inside a collective
    cannot be left in another way.

    Args:
        name: Of the stage, for the message.
        minutes: Longest time between beats, compilation included; 0 is off.
    """
    done = threading.Event()
    beat()

    def look():
        while not done.wait(min(1.0, 15 * minutes)):
            silent = time.monotonic() - _last[0]
            if silent > 60 * minutes:
                faulthandler.dump_traceback(all_threads=True)
                print(
                    f"kdiff_jax: stage {name!r}: nothing happened for {silent:.0f} s:"
                    " a hang; what was saved is intact: run the same command again, or"
                    " raise train.hang_minutes",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_CODE)

    if minutes:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        done.set()
