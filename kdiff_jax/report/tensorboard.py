"""Scalars and images for TensorBoard, where tensorboardX is installed."""

import importlib
import importlib.util
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8


class TensorBoard:
    """Writes event files; without tensorboardX it writes nothing.

    A run that resumes at `step` hides the events that an earlier one left after it.
    Events are written where they are made: tensorboardX's own writer has a queue and a
    thread, which need shared memory, and once the thread has failed the queue blocks.

    Raises:
        OSError: From every method, if the storage is full or failing.
    """

    def __init__(self, folder: str | os.PathLike, *, step: int = 0):
        self._events: Any = None
        if importlib.util.find_spec("tensorboardX") is None:
            return
        self._summary = importlib.import_module("tensorboardX.summary")
        self._proto = importlib.import_module("tensorboardX.proto.event_pb2")
        writer = importlib.import_module("tensorboardX.event_file_writer").EventsWriter
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        self._events = writer(str(pathlib.Path(folder) / "events"))
        log = self._proto.SessionLog
        # Events of an earlier run from this step on are hidden.
        self._write(step + 1, file_version="brain.Event:2")
        self._write(step + 1, session_log=log(status=log.START))
        self._events.flush()

    def scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds every metric of a logged step."""
        if self._events is not None:
            for name, value in metrics.items():
                self._write(step, summary=self._summary.scalar(name, float(value)))
            self._events.flush()

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w C"]) -> None:
        """Adds a picture, such as a sample grid."""
        if self._events is not None:
            picture = self._summary.image(name, image, dataformats="HWC")
            self._write(step, summary=picture)
            self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()

    def _write(self, step: int, **content) -> None:
        event = self._proto.Event(wall_time=time.time(), step=step, **content)
        self._events.write_event(event)
