"""Neighbours among features, and what they say: precision, recall, density, coverage.

Distances are taken on the device, in float32 of centred features, a block of rows at a
time: at 50,000 images of 2048 features 410 MB of features a set and 410 MB of
distances.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from kdiff_jax.metrics.checks import Numbers, check_pair

ROWS = 2048  # rows of a distance matrix held at once


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]: how real the samples are, and how much of the data they cover."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How many real balls a sample lies in, and how many of them hold a sample.

    Attributes:
        density: 1 for equal distributions; not bounded by it.
        coverage: In [0, 1].
    """

    density: float
    coverage: float


def precision_recall(
    f_ref: Float[Numbers, "M D_ref"], f: Float[Numbers, "N D"], k: int = 3
) -> PrecisionRecall:
    """Fraction of samples inside the real manifold, and of real images inside theirs.

    A manifold is the union of balls around its points, each reaching to the point's
    k-th nearest other point of the same set.

    Args:
        f_ref: Features of real images.
        f: Features of the samples.
        k: Which neighbour sets a ball's radius; 3 as in the paper.

    Returns:
        (precision, recall), both in [0, 1].

    Raises:
        ValueError: If a set has no k-th neighbour, or sizes differ.
        NumericsError: If a number is complex or not finite.

    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, Eq. 1 and 2.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> real, samples = np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [9.0]])
        >>> found = metrics.precision_recall(real, samples, k=1)
        >>> found.precision, found.recall
        (0.5, 1.0)
    """
    return prdc(f_ref, f, k, k)[0]


def density_coverage(
    f_ref: Float[Numbers, "M D_ref"], f: Float[Numbers, "N D"], k: int = 5
) -> DensityCoverage:
    """Mean number of real balls around a sample, over k, and real balls with samples.

    Args:
        f_ref: Features of real images.
        f: Features of the samples.
        k: Which neighbour sets the radius of a real image's ball; 5 as in the paper.

    Returns:
        (density, coverage): the first is 1 for equal distributions and may exceed it,
        the second lies in [0, 1].

    Raises:
        ValueError: If a set has no k-th neighbour, or sizes differ.
        NumericsError: If a number is complex or not finite.

    Source: Naeem et al. 2020, arXiv:2002.09797, Eq. 3 and 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> real, samples = np.array([[0.0], [1.0], [5.0]]), np.array([[0.5], [9.0]])
        >>> found = metrics.density_coverage(real, samples, k=1)
        >>> found.density, found.coverage
        (1.5, 1.0)
    """
    f, f_ref = _checked(f, f_ref, k)
    (held,) = _held(f, f_ref, [k])
    return _density_coverage(held, k)


def prdc(
    f_ref: Float[Numbers, "M D_ref"],
    f: Float[Numbers, "N D"],
    k: int = 3,
    k_density: int = 5,
) -> tuple[PrecisionRecall, DensityCoverage]:
    """`precision_recall` with k and `density_coverage` with k_density.

    Both from the same distances, so that four matrices of them are taken in all.
    """
    return balls(f_ref, f, k, k_density).figures()


class Balls(NamedTuple):
    """What the figures of `prdc` are means of.

    Attributes:
        precise: bool[N], whether each sample lies in a real ball.
        recalled: bool[M], whether each real image lies in a sample's ball.
        counts: i64[N], number of real balls, those of density, around each sample.
        covered: bool[M], whether each of them has a sample in it.
        k: Neighbour that sets the radius of these.
    """

    precise: np.ndarray
    recalled: np.ndarray
    counts: np.ndarray
    covered: np.ndarray
    k: int

    def figures(self) -> tuple[PrecisionRecall, DensityCoverage]:
        """The means."""
        precision, recall = float(self.precise.mean()), float(self.recalled.mean())
        density, coverage = self.counts.mean() / self.k, self.covered.mean()
        found = DensityCoverage(float(density), float(coverage))
        return PrecisionRecall(precision, recall), found


def balls(
    f_ref: Float[Numbers, "M D_ref"], f: Float[Numbers, "N D"], k: int, k_density: int
) -> Balls:
    """Who lies in whose balls; for the arguments see `prdc`."""
    least, most = sorted((k, k_density))
    f, f_ref = _checked(f, f_ref, most if least > 0 else least)
    real, dense = _held(f, f_ref, [k, k_density])
    (fake,) = _held(f_ref, f, [k])
    terms = real.counts > 0, fake.counts > 0, dense.counts, dense.holds
    return Balls(*terms, k_density)


def nearest(
    f: Float[Numbers, "N D"], f_ref: Float[Numbers, "M D_ref"]
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """(places in `f_ref`, distances) of the nearest neighbour of each feature.

    Raises:
        ValueError: If sizes differ, or a number is not finite.
    """
    f, f_ref = check_pair(f, f_ref, min_rows=1)
    places, squares = [], []
    for block in _distances(f, f_ref):
        least = jnp.argmin(block, axis=1)
        places.append(np.asarray(least))
        squares.append(np.asarray(jnp.take_along_axis(block, least[:, None], 1))[:, 0])
    found = np.concatenate(places)[: len(f)], np.concatenate(squares)[: len(f)]
    return found[0].astype(np.int64), np.sqrt(found[1])


def radii(f: Float[Numbers, "N D"], k: int) -> Float[np.ndarray, " N"]:
    """Distance of each feature to its k-th nearest other one of the set."""
    f, _ = _checked(f, f, k)
    return np.sqrt(_radii(f, [k])[0])


class _Held(NamedTuple):
    counts: np.ndarray  # i64[N], balls that a point lies in
    holds: np.ndarray  # bool[M], whether a ball has a point in it


def _checked(f, f_ref, k):
    if k < 1:
        raise ValueError(f"k={k}: neighbours count from 1")
    return check_pair(f, f_ref, min_rows=k + 1)


def _density_coverage(held: _Held, k: int) -> DensityCoverage:
    return DensityCoverage(float(held.counts.mean() / k), float(held.holds.mean()))


def _held(points, centres, ks: list[int]) -> list[_Held]:
    """Which points lie in which centre's ball, for balls of each k."""
    reach = [jnp.asarray(one) for one in _radii(centres, ks)]
    counts = [np.zeros(len(points), np.int64) for _ in ks]
    holds = [np.zeros(len(centres), bool) for _ in ks]
    for start, block in zip(_starts(points), _distances(points, centres), strict=True):
        num = min(len(block), len(points) - start)
        for one, count, hold in zip(reach, counts, holds, strict=True):
            inside, filled = _inside(block, one, num)
            count[start : start + num] = np.asarray(inside)[:num]
            hold |= np.asarray(filled)
    return [_Held(*one) for one in zip(counts, holds, strict=True)]


@jax.jit
def _inside(block, reach, num):
    """(balls around each row, balls that hold one of the first `num` rows)."""
    real = jnp.arange(block.shape[0]) < num
    inside = (block <= reach[None, :]) & real[:, None]
    return inside.sum(axis=1), inside.any(axis=0)


def _radii(centres, ks: list[int]) -> np.ndarray:
    """f32[K, M], squared distance of each centre to its k-th nearest other one."""
    blocks = [np.asarray(_kth(d, tuple(ks))) for d in _distances(centres, centres)]
    return np.concatenate(blocks, axis=1)[:, : len(centres)]


@functools.partial(jax.jit, static_argnames="ks")
def _kth(block, ks):
    # The k + 1 smallest: the first is the point itself, at distance 0.
    nearest = -jax.lax.top_k(-block, max(ks) + 1)[0]
    return jnp.stack([nearest[:, k] for k in ks])


def _starts(a: np.ndarray) -> range:
    """First rows of the blocks of `_distances`."""
    return range(0, len(a), min(ROWS, len(a)))


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[jax.Array]:
    """Squared distances f32[ROWS, M], a block of rows of `a` at a time.

    The last block is filled up with copies of its first row. Features are centred
    where `b` is, so that little cancels between those that are near.
    """
    centre = b.mean(axis=0)
    b_there = jnp.asarray(b - centre, jnp.float32)
    squares = jnp.square(b_there).sum(axis=1)
    size = min(ROWS, len(a))
    for i in _starts(a):
        part = np.asarray(a[i : i + size] - centre, np.float32)
        fill = np.broadcast_to(part[:1], (size - len(part), part.shape[1]))
        yield _squared(jnp.asarray(np.concatenate([part, fill])), b_there, squares)


@jax.jit
def _squared(part, b, squares):
    own = jnp.square(part).sum(axis=1)
    products = jnp.matmul(part, b.T, precision="highest")
    return jnp.clip(own[:, None] + squares[None, :] - 2 * products, 0, None)
