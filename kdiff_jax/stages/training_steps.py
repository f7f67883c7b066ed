"""The steps of a stage that trains, with all that is opened for them and closed."""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from kdiff_jax.build import Learning
from kdiff_jax.build.sections import Train
from kdiff_jax.data import batches as data_batches
from kdiff_jax.errors import NumericsError
from kdiff_jax.stages import Job
from kdiff_jax.stages.hooks import Log, Saver
from kdiff_jax.stages.training_start import Fed
from kdiff_jax.train import loop, signals
from kdiff_jax.train.checkpoint import Checkpoints


class Beside(NamedTuple):
    """What goes on beside the steps of a stage.

    Attributes:
        checkpoints: Those of the stage; closed when the steps end, as is the log.
        saver: What writes them.
        log: The log of the stage.
        hooks: What is called between steps, in order.
        begin: What is done before the first step.
    """

    checkpoints: Checkpoints
    saver: Saver
    log: Log
    hooks: Sequence[loop.Hook]
    begin: Callable[[], None] = lambda: None


def run(
    job: Job, stage: Learning, programs: loop.Programs, fed: Fed, state, beside: Beside
):
    """Trains from the state to the end of the stage.

    Args:
        job: The job.
        stage: The stage.
        programs: Its compiled steps.
        fed: What they read beside the state.
        state: The state that they begin with; it is donated.
        beside: What goes on beside them.

    Returns:
        The last state; all is saved.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If the training diverges.
    """
    train, log, saver = stage.train, beside.log, beside.saver
    stream = data_batches.iterate(fed.batches, start_step=loop.step_of(state))
    try:
        beside.begin()
        with going_back(saver, job.section(stage.name)):
            state = loop.run(
                programs,
                state,
                frozen=fed.frozen,
                numbers=fed.numbers,
                batches=stream,
                root_keys=fed.root_keys,
                num_steps=train.num_steps,
                hooks=beside.hooks,
                save=saver.now,
                observe=log.observe,
                steps_per_dispatch=per_dispatch(train),
            )
    finally:
        stream.close()
        log.close()
        beside.checkpoints.close()
    signals.release()
    return state


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


def per_dispatch(train: Train) -> int:
    """Steps of one program: a gradient inside a loop is slow on the CPU."""
    automatic = 1 if jax.default_backend() == "cpu" else 10
    return train.steps_per_dispatch or automatic
