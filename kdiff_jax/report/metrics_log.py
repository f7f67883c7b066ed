"""`metrics.jsonl`: each logged step once, however often a run was interrupted."""

import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from kdiff_jax.files import json_text, write_atomically


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
        if path.exists():
            text = path.read_text(errors="replace")
            kept = [line + "\n" for line in text.splitlines() if _is_kept(line, step)]
            if "".join(kept) != text:
                write_atomically(path, "".join(kept))
        self._file = open(path, "a")
        self._clock = clock

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends {step, time, every metric}; NaN and infinity become null."""
        line = {"step": int(step), "time": self._clock(), **metrics}
        self._file.write(json_text(line) + "\n")
        self._file.flush()  # the system holds it now: kill -9 cannot take it

    def close(self) -> None:
        """Closes the file; the log can be opened again later."""
        self._file.close()


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; null reads as NaN. No file is no lines."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    lines = (_parse(text) for text in path.read_text(errors="replace").splitlines())
    return [
        {name: math.nan if value is None else value for name, value in line.items()}
        for line in lines
        if line is not None
    ]


def _is_kept(text, step):
    line = _parse(text)
    return line is not None and line["step"] <= step


def _parse(text):
    """A line's dict, or None for one that a crash left torn."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and "step" in line else None
