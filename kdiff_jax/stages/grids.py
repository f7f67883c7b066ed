"""Grids of images while a stage trains."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdiff_jax import interop, samplers
from kdiff_jax.build import TrainStage
from kdiff_jax.interop import Model, beside
from kdiff_jax.report import grid
from kdiff_jax.stages import Job, results
from kdiff_jax.stages.hooks import Log
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import generate

NUM, SEED = 20, 0
Also = Callable[[int, Any, np.ndarray], None] | None


class Row(NamedTuple):
    """Images of one model.

    Attributes:
        title: What stands above them.
        make: Function of the state that makes them, uint8[N, H, W, C].
    """

    title: str
    make: Callable[[Any], np.ndarray]


class SampleGrids:
    """Images of the teacher, if any, and of the student, as `<step>.png`.

    From the same noise; the student is the last row, with the prompts below.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        rows: Sequence[Row],
        log: Log,
        also: Also = None,
        prompts: Sequence[str] | None = None,
    ):
        self._folder, self._rows, self._log = folder, rows, log
        self._also, self._prompts = also, prompts

    def begin(self) -> None:
        """Makes the teacher's images, which stay the same.

        Before the first step: what is wrong with them is no matter of the student.

        Raises:
            NumericsError: If one of them is not finite; names the teacher.
        """
        for row in self._rows[:-1]:
            row.make(None)

    def __call__(self, step, state) -> None:
        made = [(row.title, row.make(state)) for row in self._rows]
        picture = grid.side_by_side(made, captions=below_last(made, self._prompts))
        if jax.process_index() == 0:
            grid.save_png(self._folder / f"{step}.png", picture)
            self._log.image(step, "samples", picture)
        if self._also:
            self._also(step, state, made[-1][1])


def of_stage(
    job: Job,
    stage: TrainStage,
    roles: Roles,
    students: Students,
    log: Log,
    *,
    also: Callable[[int, Any, np.ndarray, np.ndarray], None] | None = None,
) -> SampleGrids:
    """The student of a stage, below its teacher; each student at what it owns.

    Args:
        job: The job.
        stage: The stage.
        roles: Its roles.
        students: Its students.
        log: Its log.
        also: Function of (step, state, the student's images, their labels) that is
            called with every picture.
    """
    num_classes = roles.spec.num_classes
    labels = generate.shown_labels(NUM, num_classes, students.owners)
    if students.is_part:  # it answers for all, but is seen at what it learns
        labels = students.partition.labels(students.ids[0], num_classes)
    asked: dict[str, Any] = dict(
        seed=SEED,
        labels=np.resize(labels, NUM),
        batch_size=min(NUM, stage.train.batch_size),
    )
    option = f"{job.section(stage.name)}.train.batch_size"
    make = generator(job, stage, roles, students, batch_option=option)

    def student(state):
        found = results.params_of(state.nets["student"], results.average(stage.train))
        own = results.encoder_of(state, results.average(stage.train))
        return make.images(found, frozen=own, **asked)

    rows = [Row(f"{stage.name}, {_steps(make.sampler)}", student)]
    if (teacher := roles.teacher) is not None:
        rows.insert(0, _teacher(job, stage, teacher, asked, batch_option=option))
    more = also and (lambda step, state, made: also(step, state, made, asked["labels"]))
    prompts = beside.prompts(job.frozen, job.recipe.text_encoder, asked["labels"])
    return SampleGrids(job.folder(stage.name) / "samples", rows, log, more, prompts)


def below_last(
    rows: Sequence[Any], prompts: Sequence[str] | None
) -> list[Sequence[str] | None]:
    """Captions of rows of images of the same prompts."""
    return [*[None] * (len(rows) - 1), prompts]


def generator(
    job: Job, stage: TrainStage, roles: Roles, students: Students, *, batch_option: str
) -> generate.Generator:
    """What makes the images of a stage's students, with their own sampler."""
    return generate.Generator(
        roles.nets["student"],
        interop.sampler_of(roles.spec, roles.process),
        students.mesh,
        students.owners,
        frozen=job.frozen,
        name=f"stage {stage.name!r}",
        batch_option=batch_option,
    )


def _teacher(
    job: Job, stage: TrainStage, teacher: Model, asked: Mapping[str, Any], **keywords
) -> Row:
    """The images of the teacher, which stay the same."""
    name = f"stage {stage.name!r}, teacher={stage.init.teacher}"
    sampler, made = teacher.sampler(), []
    make = generate.of_model(teacher, sampler, mesh=job.mesh, name=name, **keywords)

    def images(state):
        del state
        if not made:
            made.append(make.images(teacher.students, **asked))
        return made[0]

    return Row(f"teacher, {_steps(sampler)}", images)


def _steps(sampler: samplers.Sampler) -> str:
    return "1 step" if sampler.nfe == 1 else f"{sampler.nfe} evaluations"
