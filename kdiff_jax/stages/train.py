"""A training stage: any method, from its inputs to a model folder."""

import functools
from typing import Any

import jax

from kdiff_jax import build
from kdiff_jax.build import TrainStage
from kdiff_jax.build.sections import Train
from kdiff_jax.stages import (
    Job,
    denoised,
    grids,
    results,
    scores,
    training_end,
    training_plan,
    training_start,
    training_steps,
)
from kdiff_jax.stages.hooks import Log, Saver
from kdiff_jax.stages.scores import Scores
from kdiff_jax.stages.students import Students
from kdiff_jax.stages.training_plan import Plan
from kdiff_jax.stages.training_start import Fed
from kdiff_jax.train import loop
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import TrainState


def run(job: Job, stage: TrainStage) -> None:
    """Trains, or resumes, and leaves `model/` in the stage's folder.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite, or far above its usual size.
            What was saved meanwhile is set aside.
    """
    folder = job.folder(stage.name)
    plan = training_plan.prepare(job, stage)
    folder.mkdir(parents=True, exist_ok=True)
    if stage.trains_text:
        build.keep_tokenizer(job.recipe)
    training_plan.describe(folder, plan, stage, job.frozen)
    checkpoints = Checkpoints(folder / "checkpoints", keep=stage.train.keep)
    fed, state, step = training_start.begin(job, stage, plan, checkpoints)
    plan = plan._replace(roles=plan.roles.without_params())
    log = _log(job, stage, plan.students, first_step=step)
    found = scores.of_stage(job, stage, plan, log, first_step=step, fed=fed)
    shown = _grids(job, stage, plan, fed, log)
    saver = Saver(checkpoints, stage.train.save_minutes, log.watch)
    hooks = _hooks(stage.train, log, found, shown, saver)
    begin = functools.partial(_show_first, stage.train, found, shown, step, state)
    beside = training_steps.Beside(checkpoints, saver, log, hooks, begin)
    state = training_steps.run(job, stage, plan.programs, fed, state, beside)
    training_end.leave(job, stage, plan, *_result(stage.train, state, found, log))


def _grids(job: Job, stage: TrainStage, plan: Plan, fed: Fed, log: Log):
    """The grids of a stage, with what a step of denoising makes beside them."""
    about = plan.method, plan.roles, plan.students, fed.frozen, plan.own
    also = denoised.of_stage(job, stage, *about, log)
    return grids.of_stage(job, stage, plan.roles, plan.students, log, also=also)


def _show_first(train: Train, found: Scores, shown, step: int, state) -> None:
    """What is shown and measured before the first step of a run."""
    if step < train.num_steps:
        shown.begin()
    if found.figures:
        found.figures.begin(step, state, train)


def _result(train: Train, state: TrainState, found: Scores, log: Log):
    """(parameters, facts, what was trained with them) that a stage leaves."""
    average = results.average(train)
    params = results.params_of(state.nets["student"], average)
    facts: dict[str, Any] = {"train_seconds": log.seconds}
    if found.best:
        params, facts["best"] = found.best.params(params)
    return params, facts, results.encoder_of(state, average)


def _log(job: Job, stage: TrainStage, students: Students, *, first_step: int) -> Log:
    """The log of a stage, in which several students are named."""
    return Log(
        job.folder(stage.name),
        stage.name,
        stage.train,
        first_step=first_step,
        num_students=len(students.ids),
        students=students.ids if students.partition.num_students > 1 else (),
        late=jax.default_backend() != "cpu",  # which has nothing else to do
        config=job.recipe.config,
    )


def _hooks(
    train: Train, log: Log, found: Scores, shown, saver: Saver
) -> list[loop.Hook]:
    """In order: what a line of the log holds, the line, and saved is what is known."""
    before, after = found.hooks(train)
    return [
        *before,
        loop.Hook(train.log_every, log),
        *after,
        loop.Hook(train.sample_every, shown),
        loop.Hook(train.save_every, saver),
        loop.Hook(train.log_every, saver.if_late),
    ]
