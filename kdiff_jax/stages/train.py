"""A training stage: any method, from its inputs to a model folder."""

import contextlib
from typing import Any

import jax

from kdiff_jax import build
from kdiff_jax.build import TrainStage
from kdiff_jax.build.sections import Train
from kdiff_jax.data import batches as data_batches
from kdiff_jax.errors import NumericsError
from kdiff_jax.stages import (
    Job,
    denoised,
    grids,
    results,
    scores,
    training_end,
    training_plan,
    training_start,
)
from kdiff_jax.stages.hooks import Log, Saver
from kdiff_jax.stages.scores import Scores
from kdiff_jax.stages.students import Students
from kdiff_jax.train import loop, signals
from kdiff_jax.train.checkpoint import Checkpoints


def run(job: Job, stage: TrainStage) -> None:
    """Trains, or resumes, and leaves `model/` in the stage's folder.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite, or far above its usual size.
            What was saved meanwhile is set aside.
    """
    folder, train = job.folder(stage.name), stage.train
    plan = training_plan.prepare(job, stage)
    folder.mkdir(parents=True, exist_ok=True)
    if stage.trains_text:
        build.keep_tokenizer(job.recipe)
    training_plan.describe(folder, plan, stage, job.frozen)
    checkpoints = Checkpoints(folder / "checkpoints", keep=train.keep)
    fed, state, step = training_start.begin(job, stage, plan, checkpoints)
    plan = plan._replace(roles=plan.roles.without_params())
    log = _log(job, stage, plan.students, first_step=step)
    saver = Saver(checkpoints, train.save_minutes, log.watch)
    found = scores.of_stage(job, stage, plan, log, first_step=step, fed=fed)
    about = plan.method, plan.roles, plan.students, fed.frozen, plan.own
    also = denoised.of_stage(job, stage, *about, log)
    shown = grids.of_stage(job, stage, plan.roles, plan.students, log, also=also)
    stream = data_batches.iterate(fed.batches, start_step=step)
    try:
        if step < train.num_steps:
            shown.begin()
        if found.figures:
            found.figures.begin(step, state, train)
        with going_back(saver, job.section(stage.name)):
            state = loop.run(
                plan.programs,
                state,
                frozen=fed.frozen,
                numbers=fed.numbers,
                batches=stream,
                root_keys=fed.root_keys,
                num_steps=train.num_steps,
                hooks=_hooks(train, log, found, shown, saver),
                save=saver.now,
                observe=log.observe,
                steps_per_dispatch=per_dispatch(train),
            )
    finally:
        stream.close()
        log.close()
        checkpoints.close()
    signals.release()
    params = results.params_of(state.nets["student"], results.average(train))
    beside = results.encoder_of(state, results.average(train))
    facts: dict[str, Any] = {"train_seconds": log.seconds}
    if found.best:
        params, facts["best"] = found.best.params(params)
    training_end.leave(job, stage, plan, params, facts, beside)


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


@contextlib.contextmanager
def going_back(saver: Saver, section: str):
    """Sets aside what a student that diverges in this block has saved."""
    try:
        yield
    except NumericsError as error:
        raise NumericsError(
            f"{error}; {saver.go_back()}. Lower {section}.optim.lr or set .clip_norm,"
            " with --force_config_change or in another workdir"
        ) from error


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


def per_dispatch(train: Train) -> int:
    """Steps of one program: a gradient inside a loop is slow on the CPU."""
    automatic = 1 if jax.default_backend() == "cpu" else 10
    return train.steps_per_dispatch or automatic
