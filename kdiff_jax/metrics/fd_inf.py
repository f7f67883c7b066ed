"""Frechet distance extrapolated to infinitely many samples.

The distance of N samples is too large by about 1 / N. A line through the distances of
several N, over 1 / N, meets 0 at the distance without this bias.

Source: Chong & Forsyth 2020, arXiv:1911.07023, section 4.
"""

import numpy as np

from kdiff_jax.metrics.frechet import To
from kdiff_jax.metrics.seen import Drawn, Seen, main_of, of_rows, rows_of

NEEDS = ("moments", "rows")
NEEDS_OF_REFERENCE = ("moments",)
MIN_IMAGES = 20
BETTER = {"fd_inf": "lower"}
NUM_POINTS = 15  # as in the paper
SEED = 0  # of the order in which samples are taken


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The line's value at 1 / N = 0, which may be below 0.

    Args:
        found: The samples, by their `rows`; 20 or more.
        reference: The data, by their `main`.

    Returns:
        {"fd_inf": d}, in squared units of the features.

    Source: Chong & Forsyth 2020, arXiv:1911.07023, section 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import fd_inf
        >>> from kdiff_jax.metrics.seen import Seen, of_rows
        >>> rows = np.linspace(0, 1, 1000, dtype=np.float32)[:, None]
        >>> figures = fd_inf.measure(Seen(rows=rows + 1), Seen(of_rows(rows)))
        >>> round(figures["fd_inf"], 1)
        1.0
    """
    rows, theirs = rows_of(found), main_of(reference)
    return {"fd_inf": extrapolated(rows, To(theirs.mu, theirs.sigma))}


def drawn(found: Seen, reference: Seen, counts: np.ndarray) -> Drawn:
    """The figure, and that of drawn samples: 15 distances a draw."""
    rows, theirs = rows_of(found), main_of(reference)
    to = To(theirs.mu, theirs.sigma)
    draws = [extrapolated(np.repeat(rows, n, axis=0), to) for n in counts]
    return {"fd_inf": extrapolated(rows, to)}, {"fd_inf": np.array(draws)}


def extrapolated(rows, to: To) -> float:
    """From distances of N / 10 to N samples.

    Args:
        rows: f32[N, D], features.
        to: The reference.
    """
    order = np.random.RandomState(SEED).permutation(len(rows))
    sizes = np.linspace(len(rows) // 10, len(rows), NUM_POINTS).astype(int)
    distances = []
    for size in sizes:
        part = of_rows(rows[np.sort(order[:size])])
        distances.append(to.distance(part.mu, part.sigma))
    slope_and_limit = np.polyfit(1 / sizes, distances, 1)
    return float(slope_and_limit[1])
