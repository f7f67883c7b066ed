"""How many samples are copies of training images, by nearest neighbours in features."""

import numpy as np

from kdiff_jax.metrics.manifold import nearest, radii
from kdiff_jax.metrics.seen import Seen, rows_of

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
    f, f_ref = rows_of(found), rows_of(reference)
    places, distances = nearest(f, f_ref)
    own = radii(f_ref, 1)
    typical = np.median(own)
    ratio = np.median(distances) / typical if typical > 0 else np.inf
    return {
        "memorised": float((distances < own[places]).mean()),
        "nearest": float(ratio),
    }
