"""A table of vectors that images are conditioned on, such as embeddings of prompts.

Row k belongs to the images whose label is k.
"""

import os

import numpy as np

from kdiff_jax import arrays, domain
from kdiff_jax.errors import DataError
from kdiff_jax.files import Unreadable


def read(path: str, conditions: domain.Conditions) -> np.ndarray:
    """f32[num, dim], the rows of an .npy file.

    Args:
        path: The file; `~` is the home folder.
        conditions: What the model may be asked for.

    Raises:
        DataError: If it is missing or damaged, or no table for this model.
    """
    num, dim = conditions.num, conditions.dim
    way_out = f"give an .npy of f32[{num}, {dim}], a row for each label"
    try:
        table = arrays.load_one(os.path.expanduser(path))
    except FileNotFoundError:
        raise DataError(f"data.conditions={path!r}: is missing; {way_out}") from None
    except (OSError, Unreadable) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(
            f"data.conditions={path!r}: cannot be read ({why}); {way_out}"
        ) from error
    if why := domain.why_no_table(table, num, dim):
        raise DataError(f"data.conditions={path!r}: {why}; {way_out}")
    return np.ascontiguousarray(table, np.float32)
