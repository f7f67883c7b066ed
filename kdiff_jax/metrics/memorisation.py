"""How many samples are copies of training images, by nearest neighbours in features."""

import numpy as np

from kdiff_jax.metrics.manifold import nearest, radii
from kdiff_jax.metrics.seen import Drawn, Seen, rows_of

NEEDS = ("rows",)
MIN_IMAGES = 2


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """`memorised`, and the median distance to the nearest training image.

    `memorised` is the share of samples that lie nearer to a training image than its
    nearest other training image does: 0.5 for new images of the same distribution, 1
    for copies. It is 1 - AuthPct. `nearest` is the median over samples of their
    distance to the nearest training image, divided by the same of training images.

    Args:
        found: The samples, by their `rows`.
        reference: The training images, by theirs.

    Returns:
        {"memorised": share, "nearest": ratio}; the ratio is infinite where more than
        half of the training images have a copy among the others.

    Source: Alaa et al. 2022, arXiv:2102.08921, section 3.3.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import memorisation
        >>> from kdiff_jax.metrics.seen import Seen
        >>> rows = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
        >>> copies = Seen(rows=rows[:3])
        >>> memorisation.measure(copies, Seen(rows=rows))
        {'memorised': 1.0, 'nearest': 0.0}
    """
    return _figures(*_terms(found, reference))


def drawn(found: Seen, reference: Seen, counts: np.ndarray) -> Drawn:
    """The figures, and those of drawn samples, each by its own nearest image."""
    near, ratios = _terms(found, reference)
    each = [_figures(np.repeat(near, n), np.repeat(ratios, n)) for n in counts]
    names = ("memorised", "nearest")
    draws = {name: np.array([one[name] for one in each]) for name in names}
    return _figures(near, ratios), draws


def _terms(found: Seen, reference: Seen) -> tuple[np.ndarray, np.ndarray]:
    """(bool[N], whether each sample is that near; f64[N], its ratio of distances)."""
    f, f_ref = rows_of(found), rows_of(reference)
    places, distances = nearest(f, f_ref)
    own = radii(f_ref, 1)
    typical = np.median(own)
    ratios = distances / typical if typical > 0 else np.full(len(f), np.inf)
    return distances < own[places], ratios


def _figures(near: np.ndarray, ratios: np.ndarray) -> dict[str, float]:
    return {"memorised": float(near.mean()), "nearest": float(np.median(ratios))}
