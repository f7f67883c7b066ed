"""The folder of a run, looked at before anything is computed."""

import os
import pathlib

from kdiff_jax import files, storage
from kdiff_jax.errors import ConfigError


def check(workdir: pathlib.Path) -> None:
    """Refuses a folder in which nothing can be written. Leaves nothing there.

    Raises:
        ConfigError: If it is no folder, or nobody can make one there.
        StorageError: If the storage is full, read-only or failing.
    """
    what, above = f"--workdir={workdir}", files.existing(workdir)
    if not above.exists() and above.is_symlink():
        raise ConfigError(
            f"{what}: {above} is a link to {os.readlink(above)}, which is not there;"
            " make that folder, or name another"
        )
    if above.exists() and not above.is_dir():
        raise ConfigError(f"{what}: {above} is a file; name a folder")
    try:
        files.probe(workdir / "any" if above == workdir else workdir)
    except OSError as error:
        if known := storage.error_of(error, hard=True):
            raise known from error
        raise ConfigError(
            f"{what}: cannot be written ({error.strerror}); name another folder, or let"
            " this user write there"
        ) from error
