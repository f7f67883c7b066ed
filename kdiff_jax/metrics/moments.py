"""Mean and covariance of a stream of features."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdiff_jax import memory
from kdiff_jax.errors import DataError
from kdiff_jax.metrics.checks import Numbers, check_features


class Moments(NamedTuple):
    """What has been seen so far; a value: `update` and `merge` return a new one.

    Sums of squared deviations are kept about the running mean, in float64, so neither
    many batches nor a large mean cost precision.

    Attributes:
        num: Number of features seen.
        mu: f64[D], their mean.
        scatter: f64[D, D], the sum of (f - mu)(f - mu)^T.

    Source: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm".

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> first = metrics.Moments().update(np.array([[0.0], [2.0]]))
        >>> both = first.merge(metrics.Moments().update(np.array([[4.0]])))
        >>> both.num, both.mu.tolist(), both.sigma.tolist()
        (3, [2.0], [[4.0]])
    """

    num: int = 0
    mu: np.ndarray = np.zeros(0)
    scatter: np.ndarray = np.zeros((0, 0))

    def update(self, features: Float[Numbers, "N D"]) -> "Moments":
        """These moments after N more feature vectors.

        Args:
            features: f32[N, D], of NumPy or JAX.

        Raises:
            ValueError: If the sizes differ, or there is no vector.
            NumericsError: If a number is complex or not finite.
        """
        f = check_features("features", features, min_rows=1)
        mu = f.mean(axis=0)
        centred = f - mu[None, :]
        return self.merge(Moments(len(f), mu, centred.T @ centred))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both streams together.

        Args:
            other: Moments of as many features.

        Raises:
            ValueError: If the sizes differ.
        """
        if 0 in (self.num, other.num):
            return other if self.num == 0 else self
        if self.mu.shape != other.mu.shape:
            raise ValueError(
                f"features={len(other.mu)} a row, {len(self.mu)} so far: sizes must "
                "agree; use one feature extractor and one image size"
            )
        num, delta = self.num + other.num, other.mu - self.mu
        between = np.outer(delta, delta) * (self.num * other.num / num)
        mu = self.mu + delta * (other.num / num)
        return Moments(num, mu, self.scatter + other.scatter + between)

    @property
    def sigma(self) -> Float[np.ndarray, "D D"]:
        """Unbiased covariance, divided by num - 1.

        Raises:
            DataError: If fewer than two vectors were seen.
        """
        if self.num < 2:
            raise DataError(
                f"num={self.num}: a covariance needs two vectors; give more images"
            )
        return self.scatter / (self.num - 1)


def check_memory(argument: str, dim: int) -> None:
    """Raises ConfigError if no memory can hold the covariance of `dim` features.

    Args:
        argument: Option and value that chose the features, for the message.
        dim: Number of features.
    """
    # The sum, one batch's part of it, and what a distance takes, in float64.
    matrices = 5 * 8 * dim**2
    memory.check(argument, matrices, f"{dim} features are too many; choose others")
