"""Nearest training images of a few samples, in a set that need not fit in memory."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

from kdiff_jax.metrics.checks import Numbers, check_features, check_pair


class Neighbours(NamedTuple):
    """The K nearest of a set, the nearest first; fewer where the set is smaller.

    Attributes:
        places: i64[N, K], their places in the set.
        distances: f64[N, K], Euclidean.
    """

    places: Int64[np.ndarray, "N K"]
    distances: Float64[np.ndarray, "N K"]


def nearest(
    f: Numbers,
    blocks: Iterable[Numbers],
    k: int,
    *,
    own: Integer[np.ndarray, " N"] | None = None,
) -> Neighbours:
    """The k nearest neighbours of each feature, in one pass over a set.

    Args:
        f: Features of the samples, [N, D].
        blocks: Features of the set, [B, D] each, in the order of the set.
        k: Number of neighbours.
        own: Place of each sample in the set, which is no neighbour of itself; -1 or
            None where it is not in it.

    Raises:
        ValueError: If sizes differ.
        NumericsError: If a feature is not finite.
    """
    f = check_features("f", f, min_rows=1)
    own = np.full(len(f), -1) if own is None else own
    places = np.zeros((len(f), 0), np.int64)
    squares = np.zeros((len(f), 0))
    start = 0
    for block in blocks:
        _, block = check_pair(f, block, min_rows=1)
        found = np.argsort(_rough(f, block, own - start), axis=1)[:, : k + 1]
        # A copy has distance 0, which a difference of large numbers does not give.
        exact = np.square(f[:, None] - block[found]).sum(axis=2)
        exact[start + found == own[:, None]] = np.inf
        places = np.concatenate([places, start + found], axis=1)
        squares = np.concatenate([squares, exact], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        places, squares = (
            np.take_along_axis(x, order, axis=1) for x in (places, squares)
        )
        start += len(block)
    num = int(np.isfinite(squares).all(axis=0).sum())
    return Neighbours(places[:, :num], np.sqrt(squares[:, :num]))


def _rough(f, block, own):
    """[N, B], squared distances but for rounding; infinite to itself."""
    found = np.square(block).sum(axis=1) - 2 * f @ block.T
    here = np.flatnonzero((own >= 0) & (own < len(block)))
    found[here, own[here]] = np.inf
    return found
