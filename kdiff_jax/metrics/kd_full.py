"""Kernel distance of all images at once.

Products of all pairs, in float64 on the host: at 50,000 images of 2048 features 3e13
multiply-adds, minutes on many cores.
"""

import numpy as np

from kdiff_jax.metrics.kd import kernel_distance, kernel_distances_of_draws
from kdiff_jax.metrics.seen import Drawn, Seen, rows_of

NEEDS = ("rows",)
MIN_IMAGES = 2
BETTER = {"kd_full": "lower"}


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The unbiased estimate, which may lie a little below 0.

    Args:
        found: The samples, by their `rows`.
        reference: The data, by theirs.

    Returns:
        {"kd_full": distance}; see `kernel_distance`.

    Source: Binkowski et al. 2018, arXiv:1801.01401, Eq. 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import kd_full
        >>> from kdiff_jax.metrics.seen import Seen
        >>> rows = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
        >>> figures = kd_full.measure(Seen(rows=rows + 1), Seen(rows=rows))
        >>> figures["kd_full"] > 0
        True
    """
    return {"kd_full": kernel_distance(rows_of(found), rows_of(reference))}


def drawn(found: Seen, reference: Seen, counts: np.ndarray) -> Drawn:
    """The figure, and that of drawn samples."""
    about = rows_of(found), rows_of(reference), counts
    own, draws = kernel_distances_of_draws(*about)
    return {"kd_full": own}, {"kd_full": draws}
