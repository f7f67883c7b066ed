"""Precision, recall, density and coverage, from balls around features.

Neighbours are the papers': k = 3 of precision and recall, 5 of density and coverage.
"""

from kdiff_jax.metrics import manifold
from kdiff_jax.metrics.seen import Seen, rows_of

NEEDS = ("rows",)
MIN_IMAGES = 6
BETTER = dict.fromkeys(("precision", "recall", "density", "coverage"), "higher")
K_BALLS, K_DENSITY = 3, 5


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
    f, f_ref = rows_of(found), rows_of(reference)
    balls, density = manifold.prdc(f_ref, f, K_BALLS, K_DENSITY)
    return {**balls._asdict(), **density._asdict()}
