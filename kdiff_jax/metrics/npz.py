"""Reads the arrays of an .npz file that a user named."""

import os
import zipfile
import zlib

import numpy as np

from kdiff_jax.errors import UserError

# All that numpy raises for files that are no .npz, or damaged ones.
DAMAGED = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def read_npz(
    name: str, path: str | os.PathLike, *, error: type[UserError], wanted: str
) -> dict[str, np.ndarray]:
    """All arrays by name; nothing in the file is executed.

    Args:
        name: The argument that held the path, for the message.
        path: The file.
        error: What to raise if it cannot be read.
        wanted: What to give instead, for the message.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise error(f"{name}={path}: no such file; give {wanted}") from None
    except DAMAGED as cause:
        raise error(
            f"{name}={path}: not a readable .npz ({cause}); give {wanted}"
        ) from None
