"""How far a run is: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Step, loss, images/s and time left of one stage.

    Call `advance` after each step (it only counts) and `log` at each logged step.
    """

    def __init__(
        self,
        name: str,
        *,
        num_steps: int,
        batch_size: int,
        step: int = 0,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
            name: The stage, printed in front.
            num_steps: The stage's last step.
            batch_size: Images a step, over all devices.
            step: The step that the run starts from.
            stream: Text file to print to; stderr if None. A terminal gets a bar.
            clock: Seconds from any origin.
        """
        stream = stream or sys.stderr
        self.step = step
        self._name, self._num_steps, self._batch_size = name, num_steps, batch_size
        self._stream, self._clock = stream, clock
        self._last, self._first = (step, clock()), None
        self._bar, self._figure = None, []
        if stream.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[line]}"),
                console=Console(file=stream),
                auto_refresh=False,  # drawn by `log` alone: no thread, no cost a step
            )
            self._task = self._bar.add_task(
                name, total=num_steps, completed=step, line=""
            )
            self._bar.start()

    def advance(self, num_steps: int = 1) -> None:
        """Counts steps."""
        self.step += num_steps

    def log(self, metrics: Mapping[str, Any]) -> dict[str, int | float]:
        """Prints the current step.

        Args:
            metrics: The first whose name is `loss` or ends in it is shown, else the
                first of all.

        Returns:
            For the metrics log: images since step 0, and images_per_second since the
            last call.
        """
        now = (self.step, self._clock())
        images_per_second = _rate(self._last, now) * self._batch_size
        # The first interval compiles, so it says nothing about the time left.
        steps_per_second = _rate(self._first or self._last, now)
        self._last, self._first = now, self._first or now
        left = self._num_steps - self.step
        seconds = left / steps_per_second if steps_per_second else float("inf")
        shown = _shown(metrics)
        line = "  ".join(
            [
                f"{self.step}/{self._num_steps}",
                *([] if shown is None else [f"{shown} {float(metrics[shown]):.4g}"]),
                *self._figure,
                f"{images_per_second:.4g} images/s",
                f"{duration(seconds)} left",
            ]
        )
        if self._bar is None:
            print(f"{self._name}  {line}", file=self._stream, flush=True)
        else:
            self._bar.update(self._task, completed=self.step, line=line)
            self._bar.refresh()
        return {
            "images": self.step * self._batch_size,
            "images_per_second": images_per_second,
        }

    def show(self, name: str, value: float) -> None:
        """Prints a figure, which a terminal's bar shows from its next line on."""
        self._figure = [f"{name} {value:.4g}"] if self._bar is not None else []
        if self._bar is None:
            at = f"{self.step}/{self._num_steps}"
            line = f"{self._name}  {at}  {name} {value:.4g}"
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is and gives the terminal back."""
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: int | float) -> str:
    """Hours, minutes and seconds as a person says them: 1h02m, 2m05s, 7s."""
    if not 0 <= seconds < 1e9:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def _rate(first, last):
    steps, seconds = last[0] - first[0], last[1] - first[1]
    return steps / seconds if seconds > 0 else 0.0


def _shown(metrics):
    names = list(metrics)
    return next((n for n in names if n.endswith("loss")), names[0] if names else None)
