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
    """All four."""
    f, f_ref = rows_of(found), rows_of(reference)
    balls, density = manifold.prdc(f_ref, f, K_BALLS, K_DENSITY)
    return {**balls._asdict(), **density._asdict()}
