"""Frechet distance of features that keep places in the image: sFID on Inception's.

Source: Nash et al. 2021, arXiv:2103.03841, section 5.1.
"""

from kdiff_jax.metrics.frechet import frechet_distance
from kdiff_jax.metrics.seen import Seen, spatial_of

NEEDS = ("spatial",)
MIN_IMAGES = 2
BETTER = {"sfd": "lower"}


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The distance of the moments."""
    ours, theirs = spatial_of(found), spatial_of(reference)
    distance = frechet_distance(ours.mu, ours.sigma, theirs.mu, theirs.sigma)
    return {"sfd": distance}
