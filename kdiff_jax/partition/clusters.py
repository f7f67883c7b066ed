"""Groups of equal size of vectors that lie near each other: classes, or prompts."""

from typing import Any, NamedTuple

import numpy as np

from kdiff_jax.errors import CheckpointError, ConfigError


class MedianSplits(NamedTuple):
    """A tree of median splits along principal axes, which routes new vectors too.

    Node i has the children 2 i + 1 and 2 i + 2; those of one level share an axis.

    Numbers are those of float64, as tuples: two that are the same are equal.

    Attributes:
        mean: [D], of the vectors it was made from.
        axes: [L][D], the first L principal axes.
        thresholds: [2^L - 1], one per node; above it a vector goes to the second child.
    """

    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    thresholds: tuple[float, ...]

    @property
    def num_groups(self) -> int:
        return len(self.thresholds) + 1

    def group_of(self, vectors) -> np.ndarray:
        """i32[N] in 0 .. 2^L - 1, the group of each of f32[N, D]."""
        vectors = _of_length(vectors, len(self.mean))
        places = (vectors - np.array(self.mean)) @ np.array(self.axes).T
        thresholds = np.array(self.thresholds)
        node = np.zeros(len(vectors), np.int32)
        for place in places.T:
            node = 2 * node + 1 + (place > thresholds[node])
        return (node - len(thresholds)).astype(np.int32)

    def to_spec(self) -> dict:
        """The splits as values that JSON keeps exactly."""
        return {
            "mean": list(self.mean),
            "axes": [list(axis) for axis in self.axes],
            "thresholds": list(self.thresholds),
        }

    @staticmethod
    def from_spec(spec: Any) -> "MedianSplits":
        """What `to_spec` gave.

        Raises:
            CheckpointError: If the shapes do not belong together.
        """
        try:
            mean, axes, thresholds = (
                np.asarray(spec[name], np.float64) for name in MedianSplits._fields
            )
            levels, dim = axes.shape
            if mean.shape != (dim,) or thresholds.shape != (2**levels - 1,):
                raise ValueError("shapes differ")
            if not all(np.isfinite(x).all() for x in (mean, axes, thresholds)):
                raise ValueError("not finite")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"splits={str(spec)[:80]}: not as they were written ({error});"
                " take the file from its source again"
            ) from error
        return _splits(mean, axes, thresholds)


class Centers(NamedTuple):
    """The means of groups of vectors, which route new vectors to the nearest.

    Attributes:
        centers: [K][D], numbers of float64.
    """

    centers: tuple[tuple[float, ...], ...]

    @property
    def num_groups(self) -> int:
        return len(self.centers)

    def group_of(self, vectors) -> np.ndarray:
        """i32[N] in 0 .. K - 1, the group of each of f32[N, D]."""
        centers = np.array(self.centers)
        vectors = _of_length(vectors, centers.shape[1])
        # |v - c|^2 without |v|^2, so that N vectors take N K numbers.
        distances = (centers**2).sum(1) - 2 * vectors @ centers.T
        return distances.argmin(1).astype(np.int32)

    def to_spec(self) -> dict:
        """The centres as values that JSON keeps exactly."""
        return {"centers": [list(center) for center in self.centers]}

    @staticmethod
    def from_spec(spec: Any) -> "Centers":
        """What `to_spec` gave.

        Raises:
            CheckpointError: If they are no centres.
        """
        try:
            centers = np.asarray(spec["centers"], np.float64)
            if centers.ndim != 2 or not np.isfinite(centers).all():
                raise ValueError("no finite rows of one length")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"centers={str(spec)[:80]}: not as they were written ({error});"
                " take the file from its source again"
            ) from error
        return _centers(centers)


def _centers(centers: np.ndarray) -> Centers:
    return Centers(tuple(map(tuple, centers.tolist())))


def centers_of(vectors, owners) -> Centers:
    """The mean of each group of f32[N, D], by i[N]."""
    x = np.asarray(vectors, np.float64)
    return _centers(np.stack([x[owners == k].mean(0) for k in range(max(owners) + 1)]))


def _of_length(vectors, dim: int) -> np.ndarray:
    """f64[N, dim].

    Raises:
        ConfigError: If vectors have another length.
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ConfigError(
            f"embeddings have the shape {vectors.shape}: must be (N, {dim}), like"
            " those of which the groups were made; take the same encoder"
        )
    return vectors


def _splits(mean, axes, thresholds) -> MedianSplits:
    """The splits as plain tuples, from arrays."""
    return MedianSplits(
        tuple(mean.tolist()),
        tuple(map(tuple, axes.tolist())),
        tuple(thresholds.tolist()),
    )


def num_levels(num_groups: int) -> int:
    """L of 2^L groups.

    Raises:
        ConfigError: If median splits make no such number of groups.
    """
    levels = num_groups.bit_length() - 1
    if num_groups != 2**levels:
        raise ConfigError(
            f"num_groups={num_groups}: median splits make a power of two;"
            f" take {2**levels} or {2 ** (levels + 1)}, or rule='kmeans'"
        )
    return levels


def median_splits(vectors, num_groups: int) -> MedianSplits:
    """Halves the vectors at the median of PC 1, each half at that of PC 2, and so on.

    The sizes differ by at most one, unless vectors are equal.

    Args:
        vectors: f32[N, D], such as pooled embeddings of prompts.
        num_groups: A power of two, at most 2^D and N.

    Source: inferred from the four parts of Song et al. 2024, arXiv:2410.23274.
    """
    x = _checked(vectors, num_groups)
    levels = num_levels(num_groups)
    if levels > x.shape[1]:
        raise ConfigError(
            f"num_groups={num_groups}: needs {levels} principal axes, and embeddings"
            f" have {x.shape[1]} entries; take fewer groups"
        )
    mean = x.mean(0)
    x = x - mean
    # Of the covariance, because there may be millions of vectors.
    axes = np.linalg.eigh(x.T @ x)[1].T[::-1][:levels]
    # An axis has no direction of its own: its largest entry shall be positive.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
    axes = axes * np.sign(largest)
    places = x @ axes.T
    thresholds = np.zeros(num_groups - 1)
    members = {0: np.arange(len(x))}
    for node in range(num_groups - 1):
        here = members.pop(node)
        place = places[here, (node + 1).bit_length() - 1]
        low = (len(here) + 1) // 2
        # Between two vectors, so that rounding never moves one to the other side.
        thresholds[node] = np.sort(place)[low - 1 : low + 1].mean()
        above = place > thresholds[node]
        members[2 * node + 1], members[2 * node + 2] = here[~above], here[above]
        if not above.any():
            raise ConfigError(
                f"embeddings: {len(here)} of them are equal along an axis and cannot"
                " be split; take rule='consecutive'"
            )
    return _splits(mean, axes, thresholds)


def balanced_kmeans(vectors, num_groups: int, *, seed: int = 0) -> np.ndarray:
    """i32[N]: k-means in which every cluster has N / num_groups vectors.

    k-means gives the first centres; then vectors are assigned to the places of the
    clusters at least total cost, and centres moved, until nothing changes. Clusters are
    numbered by their first vector.

    Args:
        vectors: f32[N, D]; N is a multiple of num_groups. Time grows as N^3: for
            classes, not for prompts.
        num_groups: Number of clusters.
        seed: Seed of the initial centres.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans

    x = _checked(vectors, num_groups)
    size = len(x) // num_groups
    if size * num_groups != len(x):
        raise ConfigError(
            f"num_groups={num_groups}: must divide the number {len(x)} of vectors"
        )
    start: dict[str, Any] = dict(n_init=10, random_state=seed)
    centers = KMeans(num_groups, **start).fit(x).cluster_centers_
    owners = np.full(len(x), -1)
    # Each round lowers the sum of squares; it is done after a few.
    for _ in range(100):
        cost = np.repeat(cdist(x, centers, "sqeuclidean"), size, axis=1)
        before, owners = owners, linear_sum_assignment(cost)[1] // size
        if (owners == before).all():
            break
        centers = np.stack([x[owners == k].mean(0) for k in range(num_groups)])
    leading = [np.flatnonzero(owners == k)[0] for k in range(num_groups)]
    return np.argsort(np.argsort(leading))[owners].astype(np.int32)


def _checked(vectors, num_groups):
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or len(x) < num_groups or not np.isfinite(x).all():
        raise ConfigError(
            f"embeddings have the shape {x.shape}: must be finite and (N, D), N at"
            f" least num_groups={num_groups}; name another file"
        )
    return x
