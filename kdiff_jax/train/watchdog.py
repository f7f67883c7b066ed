"""Ends a run that hangs: a lost host or a stuck loader else costs hours in silence."""

import faulthandler
import os
import sys
import threading
import time

EXIT_CODE = 6


class Watchdog:
    """Dumps every thread's stack and exits with code 6 when `beat` stays away.

    Nothing is lost but the steps since the last checkpoint; a hang inside a collective
    cannot be left in another way.
    """

    def __init__(self, name: str, minutes: float):
        """Starts to watch.

        Args:
            name: Of the stage, for the message.
            minutes: Longest time between beats, compilation included; 0 is off.
        """
        self._name, self._seconds = name, 60 * minutes
        self._last = time.monotonic()
        self._closed = threading.Event()
        if minutes:
            threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        """Something happened."""
        self._last = time.monotonic()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self._seconds:
                faulthandler.dump_traceback(all_threads=True)
                print(
                    f"kdiff_jax: stage {self._name!r}: no step for {silent:.0f} s:"
                    " a hang; the last checkpoint is intact: run the same command"
                    " again, or raise train.hang_minutes",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_CODE)
