"""Scalars and images for TensorBoard, where tensorboardX is installed."""

import importlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8


class TensorBoard:
    """Writes event files; without tensorboardX it writes nothing.

    A run that resumes at `step` hides the events that an earlier one left after it.
    """

    def __init__(self, folder: str | os.PathLike, *, step: int = 0):
        self._writer = None
        if importlib.util.find_spec("tensorboardX") is not None:
            module = importlib.import_module("tensorboardX")
            self._writer = module.SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds every metric of a logged step."""
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, float(value), step)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w C"]) -> None:
        """Adds a picture, such as a sample grid."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is pending and closes the event file."""
        if self._writer is not None:
            self._writer.close()
