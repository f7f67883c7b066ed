"""Kernel distance (KID): squared maximum mean discrepancy with a cubic kernel.

The metric `kd` is the mean over random subsets that papers print, `kd`, and its
standard deviation, `kd_std`; `kd_full` takes all images at once.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdiff_jax.metrics.checks import Numbers, check_pair
from kdiff_jax.metrics.seen import Seen, rows_of

NEEDS = ("rows",)
MIN_IMAGES = 2
SUBSET = 1000  # images of a subset, or all where there are fewer
ROWS = 2048  # rows of a kernel matrix held at once: 50,000 squared would be 20 GB


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """Mean and standard deviation of 100 subsets of 1000, or of all if fewer."""
    f, f_ref = rows_of(found), rows_of(reference)
    size = min(SUBSET, len(f), len(f_ref))
    spread = kernel_distance_subsets(f, f_ref, subset_size=size)
    return {"kd": spread.mean, "kd_std": spread.std}


class Spread(NamedTuple):
    """A figure over several subsets: its mean and its standard deviation."""

    mean: float
    std: float


def kernel_distance(
    f: Float[Numbers, "N D"], f_ref: Float[Numbers, "M D_ref"]
) -> float:
    """Unbiased squared MMD of all features, kernel k(a, b) = (a.b / D + 1)^3.

    sum_{i != j} k(f_i, f_j) / (N(N-1)) + sum_{i != j} k(r_i, r_j) / (M(M-1))
    - 2 sum_{ij} k(f_i, r_j) / (NM)

    Args:
        f: Features of the samples.
        f_ref: Features of the reference images; any other number.

    Returns:
        The distance; being unbiased, it may lie a little below 0.

    Raises:
        ValueError: If the sizes differ, there are fewer than two rows, or a number is
            not finite.

    Source: Binkowski et al. 2018, arXiv:1801.01401, Eq. 4 and section 4.
    """
    f, f_ref = check_pair(f, f_ref)
    n, m = len(f), len(f_ref)
    within = (_kernel_sum(f, f) - _kernel_diagonal(f)) / (n * (n - 1))
    within_ref = (_kernel_sum(f_ref, f_ref) - _kernel_diagonal(f_ref)) / (m * (m - 1))
    return float(within + within_ref - 2 * _kernel_sum(f, f_ref) / (n * m))


def kernel_distance_subsets(
    f: Float[Numbers, "N D"],
    f_ref: Float[Numbers, "M D_ref"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Spread:
    """The mean over random subsets that papers print, and its spread.

    Args:
        f: Features of the samples.
        f_ref: Features of the reference images.
        num_subsets: Number of subsets, each drawn without replacement.
        subset_size: Number of rows per subset; at most N and M.
        seed: Seed of the draws; 2020 gives torch-fidelity's subsets.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ValueError: If a subset is larger than a set, and as `kernel_distance`.

    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.
    """
    if not 2 <= subset_size <= min(len(f), len(f_ref)):
        raise ValueError(
            f"subset_size={subset_size}: must be in [2, {min(len(f), len(f_ref))}], "
            "the smaller set; choose fewer or give more images"
        )
    f, f_ref = np.asarray(f), np.asarray(f_ref)
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(num_subsets):
        rows = draw.choice(len(f), subset_size, replace=False)
        rows_ref = draw.choice(len(f_ref), subset_size, replace=False)
        values.append(kernel_distance(f[rows], f_ref[rows_ref]))
    return Spread(float(np.mean(values)), float(np.std(values)))


def _kernel_sum(a, b):
    parts = (a[i : i + ROWS] @ b.T for i in range(0, len(a), ROWS))
    return sum(((part / a.shape[1] + 1) ** 3).sum() for part in parts)


def _kernel_diagonal(a):
    return (((a * a).sum(axis=1) / a.shape[1] + 1) ** 3).sum()
