"""What metrics read of a set of images: moments, features, logits, labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from kdiff_jax.metrics.moments import Moments

Rows = Float[np.ndarray, "N D"]
# Figures, and each of them for every draw of a bootstrap, f64[B].
Drawn = tuple[dict[str, float], dict[str, np.ndarray]]
BLOCK = 4096  # features turned to float64 at once


class Gaussian(NamedTuple):
    """Mean and covariance of features.

    Attributes:
        mu: f64[D].
        sigma: f64[D, D].
        num: Number of images; None if a file does not say.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics.seen import Gaussian
        >>> Gaussian(np.zeros(3), np.eye(3), num=100).sigma.shape
        (3, 3)
    """

    mu: np.ndarray
    sigma: np.ndarray
    num: int | None


class Seen(NamedTuple):
    """A set of images as metrics see it; None is what no metric asked for.

    Attributes:
        main: Moments of the features that distances read.
        rows: f32[N, D], these features, in the order of the images.
        logits: f32[N, K] of a classifier.
        spatial: Moments of features that keep places in the image.
        labels: i32[N]; what the images are grouped by.
        similarities: f32[N], cosines between images and their prompts.
        classes: i32[N], the classifier's class that each image was asked for.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics.seen import Seen, of_rows
        >>> rows = np.float32([[0, 0], [2, 4]])
        >>> seen = Seen(of_rows(rows), rows)
        >>> seen.main.mu.tolist(), seen.logits is None
        ([1.0, 2.0], True)
    """

    main: Gaussian | None = None
    rows: Rows | None = None
    logits: Rows | None = None
    spatial: Gaussian | None = None
    labels: Integer[np.ndarray, " N"] | None = None
    similarities: Float[np.ndarray, " N"] | None = None
    classes: Integer[np.ndarray, " N"] | None = None

    def part(self, places: np.ndarray) -> "Seen":
        """The same of some of the images, by their places; needs `rows`."""
        rows = rows_of(self)[places]
        others = self.logits, self.labels, self.similarities, self.classes
        logits, *more = (None if x is None else x[places] for x in others)
        return Seen(of_rows(rows), rows, logits, None, *more)


def of_rows(rows: Rows) -> Gaussian:
    """Moments of features that are all there, added in float64.

    Args:
        rows: f32[N, D], N at least 2.

    Raises:
        DataError: If there are fewer.
        NumericsError: If a number is complex or not finite.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics.seen import of_rows
        >>> found = of_rows(np.float32([[0], [2]]))
        >>> found.mu.tolist(), found.sigma.tolist(), found.num
        ([1.0], [[2.0]], 2)
    """
    moments = Moments()
    for start in range(0, len(rows), BLOCK):
        moments = moments.update(rows[start : start + BLOCK])
    return gaussian(moments)


def gaussian(moments: Moments) -> Gaussian:
    """What a stream of features came to."""
    return Gaussian(moments.mu, moments.sigma, moments.num)


def rows_of(seen: Seen) -> Rows:
    """The features; a metric asks for them by NEEDS = ("rows",)."""
    assert seen.rows is not None, "not asked for"
    return seen.rows


def logits_of(seen: Seen) -> Rows:
    """The logits; a metric asks for them by NEEDS = ("logits",)."""
    assert seen.logits is not None, "not asked for"
    return seen.logits


def similarities_of(seen: Seen) -> Float[np.ndarray, " N"]:
    """The cosines to prompts; a metric asks for them by NEEDS = ("similarities",)."""
    assert seen.similarities is not None, "not asked for"
    return seen.similarities


def classes_of(seen: Seen) -> Integer[np.ndarray, " N"]:
    """The classes asked for; a metric asks for them by NEEDS = ("classes",)."""
    assert seen.classes is not None, "not asked for"
    return seen.classes


def main_of(seen: Seen) -> Gaussian:
    """The moments; a metric asks for them by NEEDS = ("moments",)."""
    assert seen.main is not None, "not asked for"
    return seen.main


def spatial_of(seen: Seen) -> Gaussian:
    """Moments of spatial features; a metric asks for them by NEEDS = ("spatial",)."""
    assert seen.spatial is not None, "not asked for"
    return seen.spatial
