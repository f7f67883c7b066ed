"""Kernel distance (KID): squared maximum mean discrepancy with a cubic kernel.

The metric `kd` is the mean over random subsets that papers print, `kd`, and its
standard deviation, `kd_std`; `kd_full` takes all images at once.
"""

import functools
import operator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from kdiff_jax.metrics.checks import Numbers, check_pair
from kdiff_jax.metrics.seen import Drawn, Seen, rows_of

NEEDS = ("rows",)
MIN_IMAGES = 2
BETTER = {"kd": "lower"}
SUBSET = 1000  # images of a subset, or all where there are fewer
ROWS = 2048  # rows of a kernel matrix held at once: 50,000 squared would be 20 GB


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """Mean and standard deviation of 100 subsets of 1000, or of all if fewer.

    Args:
        found: The samples, by their `rows`.
        reference: The data, by theirs.

    Returns:
        {"kd": mean, "kd_std": deviation}; the mean may lie a little below 0.

    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import kd
        >>> from kdiff_jax.metrics.seen import Seen
        >>> rows = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
        >>> figures = kd.measure(Seen(rows=rows + 1), Seen(rows=rows))
        >>> sorted(figures), figures["kd"] > 0
        (['kd', 'kd_std'], True)
    """
    f, f_ref = rows_of(found), rows_of(reference)
    size = min(SUBSET, len(f), len(f_ref))
    spread = kernel_distance_subsets(f, f_ref, subset_size=size)
    return {"kd": spread.mean, "kd_std": spread.std}


def drawn(found: Seen, reference: Seen, counts: np.ndarray) -> Drawn:
    """The figures, and the mean of drawn samples in the same subsets."""
    f, f_ref = rows_of(found), rows_of(reference)
    size = min(SUBSET, len(f), len(f_ref))
    each = [
        kernel_distances_of_draws(f[rows], f_ref[rows_ref], counts[:, rows])
        for rows, rows_ref in _subsets(len(f), len(f_ref), size)
    ]
    own = [one[0] for one in each]
    figures = {"kd": float(np.mean(own)), "kd_std": float(np.std(own))}
    return figures, {"kd": np.mean([one[1] for one in each], axis=0)}


class Spread(NamedTuple):
    """A figure over several subsets: its mean and its standard deviation."""

    mean: float
    std: float


class Kernel(NamedTuple):
    """(gamma a.b + coef0)^degree, or exp(-|a - b|^2 / (2 rbf_sigma^2)).

    Attributes:
        degree: Degree of the polynomial; 3 in KID.
        gamma: Factor of the product; None for 1 / D.
        coef0: What is added to it.
        rbf_sigma: Width of a Gaussian kernel, which takes the polynomial's place.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> from kdiff_jax.metrics.kd import Kernel
        >>> zeros, ones = np.zeros((2, 1)), np.ones((2, 1))
        >>> mmd = metrics.kernel_distance(zeros, ones, kernel=Kernel(rbf_sigma=1.0))
        >>> round(mmd, 4)  # 2 - 2 exp(-1/2)
        0.7869
    """

    degree: int = 3
    gamma: float | None = None
    coef0: float = 1.0
    rbf_sigma: float | None = None

    def __call__(self, products, squares, squares_other, dim):
        """k(a, b) from a.b, |a|^2 and |b|^2, which broadcast."""
        if self.rbf_sigma is not None:
            apart = np.clip(squares + squares_other - 2 * products, 0, None)
            return np.exp(-apart / (2 * self.rbf_sigma**2))
        gamma = 1 / dim if self.gamma is None else self.gamma
        base = gamma * products + self.coef0
        # NumPy's power takes ten times as long as the products.
        return functools.reduce(operator.mul, [base] * self.degree)


CUBIC = Kernel()


def kernel_distance(
    f: Float[Numbers, "N D"],
    f_ref: Float[Numbers, "M D_ref"],
    *,
    kernel: Kernel = CUBIC,
) -> float:
    """Unbiased squared MMD of all features, by default with k(a, b) = (a.b / D + 1)^3.

    sum_{i != j} k(f_i, f_j) / (N(N-1)) + sum_{i != j} k(r_i, r_j) / (M(M-1))
    - 2 sum_{ij} k(f_i, r_j) / (NM)

    Args:
        f: Features of the samples.
        f_ref: Features of the reference images; any other number.
        kernel: The kernel.

    Returns:
        The distance; being unbiased, it may lie a little below 0.

    Raises:
        ValueError: If the sizes differ, or there are fewer than two rows.
        NumericsError: If a number is complex or not finite.

    Source: Binkowski et al. 2018, arXiv:1801.01401, Eq. 4 and section 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> metrics.kernel_distance(np.zeros((2, 1)), np.ones((2, 1)))  # 1 + 8 - 2
        7.0
    """
    f, f_ref = check_pair(f, f_ref)
    within, within_ref = _within(f, kernel), _within(f_ref, kernel)
    between = _kernel_sum(f, f_ref, kernel) / (len(f) * len(f_ref))
    return float(within + within_ref - 2 * between)


def kernel_distance_subsets(
    f: Float[Numbers, "N D"],
    f_ref: Float[Numbers, "M D_ref"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    kernel: Kernel = CUBIC,
) -> Spread:
    """The mean over random subsets that papers print, and its spread.

    Args:
        f: Features of the samples.
        f_ref: Features of the reference images.
        num_subsets: Number of subsets, each drawn without replacement.
        subset_size: Number of rows per subset; at most N and M.
        seed: Seed of the draws; 2020 gives torch-fidelity's subsets.
        kernel: The kernel.

    Returns:
        (mean, std) over the subsets.

    Raises:
        ValueError: If a subset is larger than a set, and as `kernel_distance`.

    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> sets = np.zeros((4, 1)), np.ones((4, 1))
        >>> found = metrics.kernel_distance_subsets(*sets, num_subsets=3, subset_size=2)
        >>> found.mean, found.std
        (7.0, 0.0)
    """
    if not 2 <= subset_size <= min(len(f), len(f_ref)):
        raise ValueError(
            f"subset_size={subset_size}: must be in [2, {min(len(f), len(f_ref))}], "
            "the smaller set; choose fewer or give more images"
        )
    f, f_ref = np.asarray(f), np.asarray(f_ref)
    values = [
        kernel_distance(f[rows], f_ref[rows_ref], kernel=kernel)
        for rows, rows_ref in _subsets(
            len(f), len(f_ref), subset_size, num_subsets, seed
        )
    ]
    return Spread(float(np.mean(values)), float(np.std(values)))


def kernel_distances_of_draws(
    f: Float[Numbers, "N D"],
    f_ref: Float[Numbers, "M D_ref"],
    counts: Integer[np.ndarray, "B N"],
    kernel: Kernel = CUBIC,
) -> tuple[float, Float[np.ndarray, " B"]]:
    """`kernel_distance`, and that of drawn samples, of the same products.

    Pairs of two draws of one sample are left out, as those of a sample with itself.

    Args:
        f: Features of the samples.
        f_ref: Features of the reference images.
        counts: How often each sample is drawn; a draw without two different samples
            has NaN.
        kernel: The kernel.
    """
    f, f_ref = check_pair(f, f_ref)
    num, dim = f.shape
    drawn = np.concatenate([np.ones((1, num)), counts]).T
    squares = (f * f).sum(axis=1)
    same = (drawn**2).T @ kernel(squares, squares, squares, dim)
    within, between, start = -same, 0.0, 0
    for block in _blocks(f, f, kernel):
        within += (drawn[start : start + len(block)] * (block @ drawn)).sum(axis=0)
        start += len(block)
    start = 0
    for block in _blocks(f, f_ref, kernel):
        part = drawn[start : start + len(block)]
        between += (part * block.sum(axis=1)[:, None]).sum(axis=0)
        start += len(block)
    total = drawn.sum(axis=0)
    pairs = total**2 - (drawn**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = within / pairs - 2 * between / (total * len(f_ref))
    values += _within(f_ref, kernel)
    return float(values[0]), values[1:]


def _subsets(num, num_ref, size, num_subsets=100, seed=2020):
    """(rows of the samples, rows of the reference) of each subset."""
    draw = np.random.RandomState(seed)
    for _ in range(num_subsets):
        rows = draw.choice(num, size, replace=False)
        yield rows, draw.choice(num_ref, size, replace=False)


def _within(a, kernel):
    """Mean kernel of different rows of one set."""
    squares = (a * a).sum(axis=1)
    same = kernel(squares, squares, squares, a.shape[1]).sum()
    return (_kernel_sum(a, a, kernel) - same) / (len(a) * (len(a) - 1))


def _kernel_sum(a, b, kernel):
    return sum(block.sum() for block in _blocks(a, b, kernel))


def _blocks(a, b, kernel):
    """The kernel's matrix, 2048 rows at a time."""
    squares = (b * b).sum(axis=1)
    for i in range(0, len(a), ROWS):
        part = a[i : i + ROWS]
        own = (part * part).sum(axis=1)[:, None]
        yield kernel(part @ b.T, own, squares[None, :], a.shape[1])
