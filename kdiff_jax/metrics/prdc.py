"""Precision, recall, density and coverage, from balls around features.

Neighbours are the papers': k = 3 of precision and recall, 5 of density and coverage.
"""

import numpy as np

from kdiff_jax.metrics import manifold
from kdiff_jax.metrics.seen import Drawn, Seen, rows_of

NEEDS = ("rows",)
MIN_IMAGES = 6
BETTER = dict.fromkeys(("precision", "recall", "density", "coverage"), "higher")
K_BALLS, K_DENSITY = 3, 5
NO_INTERVAL = {
    "recall": "a sample that is drawn twice is its own nearest neighbour",
    "coverage": "of as many draws a third fewer samples are different ones",
}


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """Precision, recall, density and coverage.

    Args:
        found: The samples, by their `rows`; 6 or more.
        reference: The data, by theirs.

    Returns:
        The four by their names; density alone may exceed 1.

    Source: see `precision_recall` and `density_coverage`.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import prdc
        >>> from kdiff_jax.metrics.seen import Seen
        >>> rows = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
        >>> prdc.measure(Seen(rows=rows + 9), Seen(rows=rows))
        {'precision': 0.0, 'recall': 0.0, 'density': 0.0, 'coverage': 0.0}
    """
    return _figures(_balls(found, reference))


def drawn(found: Seen, reference: Seen, counts: np.ndarray) -> Drawn:
    """The figures, and of drawn samples precision and density: means over samples."""
    balls = _balls(found, reference)
    num = len(balls.precise)
    precision, density = counts @ balls.precise / num, counts @ balls.counts / num
    return _figures(balls), {"precision": precision, "density": density / balls.k}


def _balls(found: Seen, reference: Seen) -> manifold.Balls:
    return manifold.balls(rows_of(reference), rows_of(found), K_BALLS, K_DENSITY)


def _figures(balls: manifold.Balls) -> dict[str, float]:
    ours, theirs = balls.figures()
    return {**ours._asdict(), **theirs._asdict()}
