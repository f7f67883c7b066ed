"""Precision and recall of samples, by nearest-neighbour balls around features."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdiff_jax.metrics.checks import Numbers, check_pair

ROWS = 2048  # rows of a distance matrix held at once


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]: how real the samples are, and how much of the data they cover."""

    precision: float
    recall: float


def precision_recall(
    f_ref: Float[Numbers, "M D_ref"], f: Float[Numbers, "N D"], k: int = 3
) -> PrecisionRecall:
    """Fraction of samples inside the real manifold, and of real images inside theirs.

    A manifold is the union of balls around its points, each reaching to the point's
    k-th nearest other point of the same set.

    Args:
        f_ref: Features of real images.
        f: Features of the samples.
        k: Which neighbour sets a ball's radius; 3 as in the paper.

    Returns:
        (precision, recall).

    Raises:
        ValueError: If a set has no k-th neighbour, sizes differ, or a number is not
            finite.

    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, Eq. 1 and 2.
    """
    if k < 1:
        raise ValueError(f"k={k}: neighbours count from 1")
    f, f_ref = check_pair(f, f_ref, min_rows=k + 1)
    return PrecisionRecall(_covered(f, f_ref, k), _covered(f_ref, f, k))


def _covered(points, centres, k):
    """Fraction of the points that lie in some centre's ball."""
    radii = np.concatenate(
        # Column k: column 0 is the point itself, at distance 0.
        [np.partition(block, k, axis=1)[:, k] for block in _distances(centres, centres)]
    )
    inside = [(block <= radii).any(axis=1) for block in _distances(points, centres)]
    return float(np.concatenate(inside).mean())


def _distances(a, b):
    """Squared distances, a block of rows of `a` at a time."""
    squares = np.square(b).sum(axis=1)
    for i in range(0, len(a), ROWS):
        part = a[i : i + ROWS]
        own = np.square(part).sum(axis=1)
        yield np.clip(own[:, None] + squares[None, :] - 2 * part @ b.T, 0, None)
