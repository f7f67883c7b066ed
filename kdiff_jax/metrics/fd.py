"""Frechet distance: FID on Inception's features, FD on any."""

from kdiff_jax.metrics.frechet import frechet_distance
from kdiff_jax.metrics.seen import Seen, main_of

NEEDS = ("moments",)
MIN_IMAGES = 2
BETTER = {"fd": "lower"}
RESAMPLED = True


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The Frechet distance of the moments.

    Args:
        found: The samples, by their `main`.
        reference: The data, by theirs.

    Returns:
        {"fd": d}, at least 0, in squared units of the features.

    Source: Heusel et al. 2017, arXiv:1706.08500, Eq. 6.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import fd
        >>> from kdiff_jax.metrics.seen import Gaussian, Seen
        >>> found = Gaussian(np.ones(2), np.eye(2), 100)
        >>> reference = Gaussian(np.zeros(2), np.eye(2), 100)
        >>> round(fd.measure(Seen(found), Seen(reference))["fd"], 6)
        2.0
    """
    ours, theirs = main_of(found), main_of(reference)
    distance = frechet_distance(ours.mu, ours.sigma, theirs.mu, theirs.sigma)
    return {"fd": distance}
