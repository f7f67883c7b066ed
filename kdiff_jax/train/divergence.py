"""Divergence: losses and gradients that are finite, and far above their usual size."""

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

WATCHED = ("loss", "grad_norm")
WINDOW = 100  # lines of the log that say what is usual
# Below this size nothing counts as a spike: a discriminator that always wins has a loss
# of 1e-4, and is well again at 1.
FLOOR = 1.0
SPIKES = "spikes"  # of a line in the log: how many lines in turn have had one


class Watch:
    """Compares each line of the log with those before it.

    A spike is a metric above `factor` times the median of its last healthy lines. One
    line may have one; `lines` in turn, or one in the last line of a run, are a
    divergence.

    Attributes:
        num_spikes: Lines in turn with a spike, up to now.
        what: The last spike in words.
        healthy: Step of the last healthy line; 0 before the first.
        confirmed: The newest step that `lines` healthy lines in turn have followed;
            what was saved up to there is good. 0 before the first.
    """

    def __init__(
        self, *, factor: float, lines: int, before: Iterable[Mapping[str, Any]] = ()
    ):
        """Starts to watch.

        Args:
            factor: See above; 0 watches nothing.
            lines: See above.
            before: Lines of the log that a run resumes after, with their `step`.
        """
        self._factor, self._lines = factor, lines
        self._usual: dict[str, deque[float]] = {}
        self._in_turn: list[int] = []
        self.num_spikes, self.what = 0, ""
        self.healthy = self.confirmed = 0
        for line in before:
            self._add(int(line["step"]), line, spike=bool(line.get(SPIKES)))

    def begin(self, values: Mapping[str, float]) -> None:
        """Takes the first step's metrics as usual, of those that no line has had."""
        self._remember({k: v for k, v in values.items() if k not in self._usual})

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Judges a line of finite metrics."""
        found = [self._spike(k, v) for k, v in values.items() if k in self._usual]
        self.what = next((text for text in found if text), "")
        self._add(step, values, spike=bool(self.what))

    def diverged(self, last: bool) -> bool:
        """Whether the run has diverged, at its last line or an earlier one."""
        return self.num_spikes >= (1 if last else self._lines)

    def _add(self, step, values, *, spike):
        if spike:
            self.num_spikes += 1
            self._in_turn = []
            return
        self.num_spikes, self.healthy = 0, step
        self._remember(values)
        self._in_turn = [*self._in_turn, step][-self._lines - 1 :]
        if len(self._in_turn) > self._lines:
            self.confirmed = self._in_turn[0]

    def _remember(self, values):
        for name, value in values.items():
            if any(part in WATCHED for part in name.split("/")) and value == value:
                self._usual.setdefault(name, deque(maxlen=WINDOW)).append(abs(value))

    def _spike(self, name, value) -> str:
        usual = statistics.median(self._usual[name])
        if self._factor and abs(value) > self._factor * max(usual, FLOOR):
            return f"{name} is {value:.3g}, and was {usual:.3g} (median)"
        return ""
