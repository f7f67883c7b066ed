"""Reads the arrays of an .npz file that a user named."""

import os

import numpy as np

from kdiff_jax import arrays
from kdiff_jax.errors import UserError
from kdiff_jax.files import Unreadable


def read_npz(
    name: str, path: str | os.PathLike, *, error: type[UserError], wanted: str
) -> dict[str, np.ndarray]:
    """All arrays by name; nothing in the file is executed.

    Args:
        name: The argument that held the path, for the message.
        path: The file; `~` is the home folder.
        error: What to raise if it cannot be read.
        wanted: What to give instead, for the message.
    """
    try:
        return arrays.load(os.path.expanduser(path))
    except FileNotFoundError:
        raise error(f"{name}={path}: no such file; give {wanted}") from None
    except Unreadable as cause:
        raise error(
            f"{name}={path}: not a readable .npz ({cause}); give {wanted}"
        ) from None
