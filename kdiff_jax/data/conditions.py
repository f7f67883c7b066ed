"""A table of vectors that images are conditioned on, such as embeddings of prompts.

Row k belongs to the images whose label is k.
"""

import os

import numpy as np

from kdiff_jax import arrays, domain
from kdiff_jax.errors import DataError
from kdiff_jax.files import Unreadable


def read(path: str, conditions: domain.Conditions) -> np.ndarray:
    """f32[num, dim], the table of a recipe, from an .npy file.

    Args:
        path: The file; `~` is the home folder.
        conditions: What the model may be asked for.

    Raises:
        DataError: If it is missing or damaged, or no table for this model.
    """
    num, dim, length = conditions.num, conditions.dim, conditions.length
    way_out = f"give an .npy of f32[{num}, {dim}], a row for each label"
    if length:
        way_out = (
            f"give an .npy of f32[{num + 1}, {length}, {dim}], last the empty text"
        )
    table, place = _load(path, "data.conditions", way_out)
    if why := domain.why_no_table(table, num, dim, length):
        raise DataError(f"{place}: {why}; {way_out}")
    return np.ascontiguousarray(domain.kept(table))


def read_asked(path: str, dim: int, option: str, length: int = 0) -> np.ndarray:
    """f32[N, dim], vectors to ask a model for, any number of them, from an .npy file.

    Of texts f32[N, length, dim].

    Args:
        path: The file; `~` is the home folder.
        dim: Length of the vectors that the model reads.
        option: Name of the option that gives the path, for messages.
        length: Number of vectors of a text; 0 for single vectors.

    Raises:
        DataError: If it is missing or damaged, or holds other arrays or none.
    """
    row = f"{length}, {dim}" if length else f"{dim}"
    way_out = f"give an .npy of f32[N, {row}], a row for each image"
    table, place = _load(path, option, way_out)
    num = len(table) if table.ndim else 0
    why = domain.why_no_table(table, num - bool(length), dim, length)
    if why or not num:
        raise DataError(f"{place}: {why or 'has no rows'}; {way_out}")
    return np.ascontiguousarray(table, np.float32)


def _load(path: str, option: str, way_out: str) -> tuple[np.ndarray, str]:
    """(the array of a file, the option and its value for messages)."""
    place = f"{option}={path!r}"
    try:
        return arrays.load_one(os.path.expanduser(path)), place
    except FileNotFoundError:
        raise DataError(f"{place}: is missing; {way_out}") from None
    except (OSError, Unreadable) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{place}: cannot be read ({why}); {way_out}") from error
