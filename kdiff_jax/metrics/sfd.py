"""Frechet distance of features that keep places in the image: sFID on Inception's.

Source: Nash et al. 2021, arXiv:2103.03841, section 5.1.
"""

from kdiff_jax.metrics.frechet import frechet_distance
from kdiff_jax.metrics.seen import Seen, spatial_of

NEEDS = ("spatial",)
MIN_IMAGES = 2
BETTER = {"sfd": "lower"}
NO_INTERVAL = {"sfd": "of spatial features moments alone are kept"}


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The Frechet distance of the spatial features' moments.

    Args:
        found: The samples, by their `spatial`.
        reference: The data, by theirs.

    Returns:
        {"sfd": d}, at least 0, in squared units of the features.

    Source: Nash et al. 2021, arXiv:2103.03841, section 5.1.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import sfd
        >>> from kdiff_jax.metrics.seen import Gaussian, Seen
        >>> found = Gaussian(np.ones(2), np.eye(2), 100)
        >>> reference = Gaussian(np.zeros(2), np.eye(2), 100)
        >>> figures = sfd.measure(Seen(spatial=found), Seen(spatial=reference))
        >>> round(figures["sfd"], 6)
        2.0
    """
    ours, theirs = spatial_of(found), spatial_of(reference)
    distance = frechet_distance(ours.mu, ours.sigma, theirs.mu, theirs.sigma)
    return {"sfd": distance}
