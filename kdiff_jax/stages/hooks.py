"""What happens beside the steps of a training stage: logs and saves."""

import io
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.build.sections import Train
from kdiff_jax.errors import NumericsError
from kdiff_jax.report import metrics_log, tensorboard, trackers
from kdiff_jax.report.progress import Progress
from kdiff_jax.train import parallel
from kdiff_jax.train.divergence import SPIKES, Watch
from kdiff_jax.train.means import Means

_FIGURE = "figure_seconds"  # of lines that hold figures, and no losses


class _Line(NamedTuple):
    """A line of the log, whose numbers may still be on the device."""

    step: int
    first: int
    seconds: float
    means: Means
    extra: Mapping[str, float]


class Log:
    """Losses and speed to `metrics.jsonl`, TensorBoard, a tracker, the progress line.

    A line has the mean, over the steps since the last line, of every metric that was
    measured in them; a phase that did not run since has none. The first line after a
    resume begins at the step that was resumed.
    """

    def __init__(
        self,
        folder,
        name: str,
        train: Train,
        *,
        first_step: int,
        num_students: int = 1,
        students: Sequence[int] = (),
        late: bool = False,
        config: Mapping[str, Any] | None = None,
    ):
        """Opens the log, and cuts what was written after the first step.

        Args:
            folder: Folder of the stage.
            name: Name of the stage.
            train: The options of the stage, see `Train`.
            first_step: Step that the run begins or resumes at.
            num_students: Number of students that this run trains.
            students: Their numbers; () logs their mean alone.
            late: Whether a line is read from the device when the next one is due.
            config: The recipe in plain values, for a tracker.
        """
        self._writes = jax.process_index() == 0  # only the first process talks
        path = folder / "metrics.jsonl"
        lines = [m for m in metrics_log.read(path) if m["step"] <= first_step]
        self._figures = {(m["step"], n) for m in lines if _FIGURE in m for n in m}
        lines = [m for m in lines if _FIGURE not in m]
        self.seconds = lines[-1].get("train_seconds", 0.0) if lines else 0.0
        if self._writes:
            self._file = metrics_log.MetricsLog(path, step=first_step)
            self._boards = (
                tensorboard.TensorBoard(folder / "tensorboard", step=first_step),
                trackers.Tracker(train.tracker, folder, config=config or {}),
            )
        self._name, self._students = name, students
        self._batch_size = train.batch_size * num_students
        self._extra: dict[str, float] = {}
        self._means, self._first = Means(), None
        self._late, self._lines = late, []
        self._num_steps = train.num_steps
        self.watch = Watch(
            factor=train.spike_factor, lines=train.spike_lines, before=lines
        )
        self._last = (first_step, time.monotonic())
        self._progress = Progress(
            name,
            num_steps=train.num_steps,
            batch_size=self._batch_size,
            step=first_step,
            stream=None if self._writes else io.StringIO(),
        )

    def add(self, **metrics: float) -> None:
        """Metrics of other hooks, written with the next line."""
        self._extra |= metrics

    def figures(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Writes figures to a line of their own, at once: a killed run has them.

        Args:
            step: The step.
            values: Figures by name; the first is shown with the progress, too.
            seconds: What they took.
        """
        while self._lines:  # in the order of the steps
            self._write(self._lines.pop(0))
        if not self._writes:
            return
        self._progress.show(*next(iter(values.items())))
        self._file.write(step, {**values, _FIGURE: seconds})
        for board in self._boards:
            board.scalars(step, values)

    def has_figures(self, step: int, ending: str) -> bool:
        """Whether a run before has written figures with these names' end at a step."""
        return any(at == step and name.endswith(ending) for at, name in self._figures)

    def image(self, step: int, name: str, image) -> None:
        for board in self._boards if self._writes else ():
            board.image(step, name, image)

    def observe(self, sums, num_steps: int) -> None:
        """Takes the metrics of a dispatch, see `loop.run`; they stay on the device."""
        self._means.add(sums, num_steps)
        if self._first is None:
            self._first = (sums, num_steps)

    def __call__(self, step, state) -> None:
        """Writes a line; on accelerators the line before, whose numbers are there.

        So a step is dispatched while the device is still at the last ones. The last
        line of the training is written at once.

        Raises:
            NumericsError: If a metric was not finite at one of its steps, or the run
                has diverged.
        """
        del state
        now, before = time.monotonic(), self._last
        self.seconds += now - before[1]
        self._last = (step, now)
        line = _Line(step, before[0] + 1, self.seconds, self._means, self._extra)
        self._means, self._extra = Means(), {}
        self._lines.append(line)
        wait = self._late and step != self._num_steps
        while len(self._lines) > wait:
            self._write(self._lines.pop(0))

    def _write(self, line: _Line) -> None:
        values = _numbers(line.means.take(), self._students)
        bad = [k for k, v in values.items() if not math.isfinite(v)]
        if not bad:
            self._judge(line.step, values)
        self._put(line, values)
        where = f"stage {self._name!r}, steps {line.first} to {line.step}"
        if bad:
            raise NumericsError(f"{where}: {bad[0]} is {values[bad[0]]} at one of them")
        if self.watch.diverged(last=line.step == self._num_steps):
            raise NumericsError(
                f"{where}: {self.watch.what or 'a loss'}: the run diverges"
                " (--config.train.spike_factor=0 ignores it)"
            )

    def _put(self, line: _Line, values: Mapping[str, float]) -> None:
        """Shows a line, and writes it to the file and the board."""
        if not self._writes:
            return
        step = line.step
        self._progress.advance(step - line.first + 1)
        whole = {**values, **line.extra, **self._progress.log(values)}
        whole |= {"images": step * self._batch_size, "train_seconds": line.seconds}
        if self.watch.num_spikes:
            whole[SPIKES] = self.watch.num_spikes
        self._file.write(step, whole)
        for board in self._boards:
            board.scalars(step, whole)

    def _judge(self, step, values):
        """Compares the line with those before; all hosts go by what the first has."""
        if self._first:
            sums, num_steps = self._first
            mean = jax.tree.map(lambda x: x / num_steps, jax.device_get(sums))
            self.watch.begin(_numbers(mean, self._students))
            self._first = ()
        watch = self.watch
        watch.line(step, values)
        watch.num_spikes, watch.healthy, watch.confirmed = map(
            int,
            parallel.from_first_host(
                (watch.num_spikes, watch.healthy, watch.confirmed)
            ),
        )

    def close(self) -> None:
        """Writes what is left: a run that stops has its last line, unjudged."""
        for line in self._lines:
            self._put(line, _numbers(line.means.take(), self._students))
        self._lines = []
        if self._writes:
            self._progress.close()
            self._file.close()
            for board in self._boards:
                board.close()


def _numbers(metrics, students) -> dict[str, float]:
    """Means over the students by name, and each as name/number.

    Args:
        metrics: Name -> for each round, a number for each group of devices.
        students: Numbers of the students to name; () for none.
    """
    found = {}
    for name, rounds in metrics.items():
        each = np.stack(rounds, axis=1).ravel()
        found[name] = float(each.mean())
        found |= {f"{name}/{k}": float(v) for k, v in zip(students, each)}  # noqa: B905
    return found


class Saver:
    """Checkpoints every so many steps and every so many minutes; finite states only."""

    def __init__(self, checkpoints, minutes: float, watch: Watch):
        self._checkpoints, self._seconds = checkpoints, 60 * minutes
        self._watch, self._last = watch, time.monotonic()

    def __call__(self, step, state) -> None:
        self.now(step, state)

    def now(self, step, state) -> None:
        """Saves, unless the state is damaged.

        Raises:
            NumericsError: If a parameter is not finite.
        """
        if not _all_finite(state.nets):
            raise NumericsError(
                f"step {step}: a parameter is not finite, so it was not saved"
            )
        self._checkpoints.save(step, state, good=self._watch.confirmed)
        self._last = time.monotonic()

    def go_back(self) -> str:
        """Sets aside what was saved while the run diverged.

        That is all after the newest step that healthy lines have followed, or, if there
        is none, after the last healthy line.

        Returns:
            In words, where the same command goes on.
        """
        steps = self._checkpoints.steps()
        followed = [s for s in steps if s <= self._watch.confirmed]
        good = (followed or [s for s in steps if s <= self._watch.healthy])[-1:]
        aside = [s for s in steps if s not in good and s > max(good, default=0)]
        self._checkpoints.set_aside(aside, "diverged")
        found = f"step {good[0]}, from before, is kept" if good else "no step is kept"
        if aside:
            names = ", ".join(map(str, aside))
            found += f", what was saved after it ({names}) is set aside as diverged_*"
        return f"{found}: the same command {'resumes there' if good else 'begins anew'}"

    def if_late(self, step, state) -> None:
        """Saves if the last save is too long ago, by the clock of the first host."""
        late = time.monotonic() - self._last > self._seconds
        if bool(parallel.from_first_host(late)):
            self.now(step, state)


def _all_finite(tree) -> bool:
    """Leaf by leaf: a program of them all would take seconds to compile."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return all(jax.device_get([_finite(x) for x in floats]))


@jax.jit
def _finite(x):
    return jnp.isfinite(x).all()
