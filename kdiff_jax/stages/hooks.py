"""What happens beside the steps of a training stage: logs, grids, saves."""

import io
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import samplers
from kdiff_jax.errors import NumericsError
from kdiff_jax.report import grid, metrics_log, tensorboard
from kdiff_jax.report.progress import Progress
from kdiff_jax.train import generate, parallel


class Log:
    """Loss and speed to `metrics.jsonl`, TensorBoard and the progress line.

    Raises NumericsError at the first logged step whose metrics are not finite.
    """

    def __init__(
        self, folder, name: str, train: dict, *, first_step: int, students=None
    ):
        self._writes = jax.process_index() == 0  # only the first process talks
        path = folder / "metrics.jsonl"
        lines = [m for m in metrics_log.read(path) if m["step"] <= first_step]
        self.seconds = lines[-1].get("train_seconds", 0.0) if lines else 0.0
        if self._writes:
            self._file = metrics_log.MetricsLog(path, step=first_step)
            self._board = tensorboard.TensorBoard(
                folder / "tensorboard", step=first_step
            )
        self._name, self._students = name, students
        self._batch_size = train["batch_size"] * len(students or (0,))
        self._extra: dict[str, float] = {}
        self._last = (first_step, time.monotonic())
        self._progress = Progress(
            name,
            num_steps=train["num_steps"],
            batch_size=self._batch_size,
            step=first_step,
            stream=None if self._writes else io.StringIO(),
        )

    def add(self, **metrics: float) -> None:
        """Metrics of other hooks, written with the next line."""
        self._extra |= metrics

    def image(self, step: int, name: str, image) -> None:
        if self._writes:
            self._board.image(step, name, image)

    def __call__(self, step, state, metrics) -> None:
        del state
        values = _numbers(jax.device_get(metrics), self._students)
        now = time.monotonic()
        self.seconds += now - self._last[1]
        num_steps = step - self._last[0]
        self._last = (step, now)
        if self._writes:
            self._progress.advance(num_steps)
            line = values | self._extra | self._progress.log(values)
            line |= {"images": step * self._batch_size, "train_seconds": self.seconds}
            self._file.write(step, line)
            self._board.scalars(step, line)
        self._extra = {}
        bad = [k for k, v in values.items() if not math.isfinite(v)]
        if bad:
            raise NumericsError(
                f"stage {self._name!r}, step {step}: {bad[0]} is {values[bad[0]]}; what"
                " was saved is intact: lower optim.lr or set optim.clip_norm, with"
                " --force_config_change or in another workdir"
            )

    def close(self) -> None:
        if self._writes:
            self._progress.close()
            self._file.close()
            self._board.close()


def _numbers(metrics, students) -> dict[str, float]:
    """Metrics by name; of several students the mean, and each as name/number.

    Args:
        metrics: Name -> number; of several students one such dict for each round, with
            a number for each group of devices.
        students: Their numbers; None of one.
    """
    if students is None:
        return {name: float(value) for name, value in metrics.items()}
    found = {}
    for name in metrics[0]:
        each = np.stack([one[name] for one in metrics], axis=1).ravel()
        found[name] = float(each.mean())
        found |= {f"{name}/{k}": float(v) for k, v in zip(students, each, strict=True)}
    return found


class Saver:
    """Checkpoints every so many steps and every so many minutes; finite states only."""

    def __init__(self, checkpoints, minutes: float):
        self._checkpoints, self._seconds = checkpoints, 60 * minutes
        self._last = time.monotonic()

    def __call__(self, step, state, metrics) -> None:
        del metrics
        self.now(step, state)

    def now(self, step, state) -> None:
        """Saves, unless the state is damaged.

        Raises:
            NumericsError: If a parameter is not finite; the checkpoint before is kept.
        """
        if not _all_finite(state.nets):
            raise NumericsError(
                f"step {step}: a parameter is not finite, so nothing was saved; what"
                " was saved is intact: lower optim.lr or set optim.clip_norm, with"
                " --force_config_change or in another workdir"
            )
        self._checkpoints.save(step, state)
        self._last = time.monotonic()

    def if_late(self, step, state, metrics) -> None:
        """Saves if the last save is too long ago, by the clock of the first host."""
        del metrics
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


class SampleGrids:
    """Images of the student, below those of its teacher from the same noise.

    With a partition the state on the mesh holds all of its students, and each makes the
    images that it owns. The labels are repeated in turn.
    """

    NUM, SEED = 20, 0

    def __init__(
        self,
        job,
        stage,
        nets,
        process,
        spec,
        teacher,
        train,
        log,
        mesh,
        partition,
        labels,
    ):
        sampler = samplers.make(process=process, **spec["sampler"])
        student = generate.Generator(nets["student"], sampler, mesh, partition)
        keywords = {
            "seed": self.SEED,
            "labels": np.resize(labels, self.NUM),
            "batch_size": self.NUM,
        }
        self._rows = []
        if teacher:
            self._rows.append(_teacher_row(teacher, job.mesh, keywords))
        self._student = lambda p: student.images(p, **keywords)
        self._title = f"{stage.name}, {_steps(sampler)}"
        self._result = "params" if train["result"] == "params" else "ema"
        self._folder, self._log = job.folder(stage.name) / "samples", log

    def __call__(self, step, state, metrics) -> None:
        del metrics
        images = self._student(getattr(state.nets["student"], self._result))
        rows = [(title, make()) for title, make in self._rows]
        picture = grid.side_by_side([*rows, (self._title, images)])
        if jax.process_index() == 0:
            grid.save_png(self._folder / f"{step}.png", picture)
            self._log.image(step, "samples", picture)


def _teacher_row(teacher, mesh, keywords):
    """(title, function that makes the teacher's images once)."""
    sampler = teacher.sampler()
    make = generate.of_model(teacher, sampler, mesh=mesh)
    cache = []

    def images():
        if not cache:
            cache.append(make.images(teacher.params, **keywords))
        return cache[0]

    return f"teacher, {_steps(sampler)}", images


def _steps(sampler):
    return "1 step" if sampler.nfe == 1 else f"{sampler.nfe} evaluations"
