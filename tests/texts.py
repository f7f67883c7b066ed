"""Points in the plane that are conditioned on texts: rows of states, last no text."""

import numpy as np
import vectors

LENGTH = 2


def table() -> np.ndarray:
    """f32[9, 2, 3]: the vector of each class, and three times that; last no text."""
    rows = vectors.table()
    none = np.full((1, LENGTH, vectors.DIM), 0.5, np.float32)
    return np.concatenate([np.stack([rows, 3 * rows], axis=1), none])


def config(path, **partition):
    """As `vectors.config`."""
    return vectors.config(path, table(), dict(cond_length=LENGTH), **partition)
