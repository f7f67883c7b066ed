"""`metrics.jsonl`: each logged step once, however often a run was interrupted.

Each line holds a digest of itself: one that was damaged is left out, not believed.
"""

import logging
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdiff_jax import sealed
from kdiff_jax.files import json_text, write_atomically

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends a line per logged step; a killed run loses none that it wrote.

    Opening it for a run that resumes at `step` drops the lines after that step: the run
    writes them again. A torn last line, left by a crash of the machine, goes too.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        step: int = 0,
        clock: Callable[[], float] = time.time,
    ):
        """Opens the log.

        Args:
            path: The file; made with its folders when missing.
            step: The step that the run starts from; 0 for a new run.
            clock: Seconds since the epoch, written as `time`.
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            text = path.read_text(errors="replace")
            kept = [line + "\n" for line in text.splitlines() if _is_kept(line, step)]
            if "".join(kept) != text:
                write_atomically(path, "".join(kept))
        self._file = open(path, "a")
        self._clock = clock

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends {step, time, every metric}; NaN and infinity become null."""
        line = {"step": int(step), "time": self._clock(), **metrics}
        self._file.write(json_text(sealed.seal(line)) + "\n")
        self._file.flush()  # the system holds it now: kill -9 cannot take it

    def close(self) -> None:
        """Closes the file; the log can be opened again later."""
        self._file.close()


def write(path: str | os.PathLike, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a whole log at once."""
    text = "".join(json_text(sealed.seal(line)) + "\n" for line in lines)
    write_atomically(path, text)


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; null reads as NaN. No file is no lines.

    Damaged lines are left out, and the log says how many.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    texts = path.read_text(errors="replace").splitlines()
    lines = [parse(text) for text in texts]
    if bad := lines.count(None):
        log.error("%s: %d damaged lines are left out", path, bad)
    return [
        {name: math.nan if value is None else value for name, value in line.items()}
        for line in lines
        if line is not None
    ]


def _is_kept(text, step):
    line = parse(text)
    return line is not None and line["step"] <= step


def parse(text: str) -> dict[str, Any] | None:
    """What a line says, null as None; or None if it is not as it was written."""
    try:
        line = sealed.parse(text)
    except sealed.Damaged:
        return None
    step = line.pop("step", None)
    numbers = (value is None or _is_number(value) for value in line.values())
    return {"step": step, **line} if type(step) is int and all(numbers) else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
