"""Frechet distance: FID on Inception's features, FD on any."""

from kdiff_jax.metrics.frechet import frechet_distance
from kdiff_jax.metrics.seen import Seen, main_of

NEEDS = ("moments",)
MIN_IMAGES = 2
BETTER = {"fd": "lower"}
RESAMPLED = True


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The distance of the moments."""
    ours, theirs = main_of(found), main_of(reference)
    distance = frechet_distance(ours.mu, ours.sigma, theirs.mu, theirs.sigma)
    return {"fd": distance}
