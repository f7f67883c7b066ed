"""Who may write in a workdir: one run, or jobs that each train another student."""

from kdiff_jax import stages, storage
from kdiff_jax.errors import ConfigError
from kdiff_jax.lock import Lock
from kdiff_jax.stages import Job, place

_held: list[Lock] = []


def take(job: Job, only: str | None) -> bool:
    """Makes the workdir and locks it, unless there is nothing to do.

    Args:
        job: With `partition.only` it locks the folders of one student alone.
        only: The one stage that is to run; None for all.

    Returns:
        Whether there is something to do.

    Raises:
        ConfigError: If another run works there, or see `place.check`.
        StorageError: If it cannot be written.
    """
    todo = [s.name for s in job.stages if only in (None, s.name)]
    if all(stages.is_done(job.left(name)) for name in todo):
        return False
    # A stage of all students is that of every job, when it is asked for.
    alone = job.only is not None and not (only and not job.split(only))
    name = f".lock.only_{job.only}" if alone else ".lock"
    what = f"--workdir={job.workdir}"
    place.check(job.workdir)
    try:
        _held.append(Lock(job.workdir / name, what))
    except OSError as error:
        if known := storage.error_of(error):
            raise known from error
        raise ConfigError(f"{what}: {error.strerror}; name another folder") from error
    return True


def release() -> None:
    """Gives back what this process has taken."""
    while _held:
        _held.pop().release()
