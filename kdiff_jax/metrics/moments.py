"""Mean and covariance of a stream of features, and the files that keep them."""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdiff_jax.errors import DataError
from kdiff_jax.metrics.checks import Numbers, check_features
from kdiff_jax.metrics.npz import read_npz

WANTED = "an .npz with mu and sigma"


class Moments(NamedTuple):
    """What has been seen so far; a value: `update` and `merge` return a new one.

    Sums of squared deviations are kept about the running mean, in float64, so neither
    many batches nor a large mean cost precision.

    Source: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm".
    """

    num: int = 0
    mu: np.ndarray = np.zeros(0)  # f64[D]
    scatter: np.ndarray = np.zeros((0, 0))  # f64[D, D], sum of (f - mu)(f - mu)^T

    def update(self, features: Float[Numbers, "N D"]) -> "Moments":
        """These moments after N more feature vectors."""
        f = check_features("features", features, min_rows=1)
        mu = f.mean(axis=0)
        centred = f - mu[None, :]
        return self.merge(Moments(len(f), mu, centred.T @ centred))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both streams together."""
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
            ValueError: If fewer than two vectors were seen.
        """
        if self.num < 2:
            raise ValueError(
                f"num={self.num}: a covariance needs two vectors; give more images"
            )
        return self.scatter / (self.num - 1)


class Stats(NamedTuple):
    """Reference moments of a data set, as they lie on disk."""

    mu: np.ndarray  # f64[D]
    sigma: np.ndarray  # f64[D, D]
    num: int | None  # images behind them; None: the file does not say
    features: str | None  # name of the extractor; None: the file does not say


def save_stats(path: str | os.PathLike, moments: Moments, *, features: str) -> None:
    """Writes moments as an .npz of mu, sigma, num and the features' name."""
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(
                file,
                mu=moments.mu,
                sigma=moments.sigma,
                num=moments.num,
                features=features,
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_stats(path: str | os.PathLike, *, features: str | None = None) -> Stats:
    """Reads reference moments: ours, or any .npz with mu and sigma (EDM's fid-refs).

    Args:
        path: The .npz file.
        features: The extractor in use; a file of another one is refused.

    Raises:
        DataError: If the file is missing, damaged, or of other features.
    """
    arrays = read_npz("reference", path, error=DataError, wanted=WANTED)
    missing = [name for name in ("mu", "sigma") if name not in arrays]
    if missing:
        raise DataError(
            f"reference={path}: holds {sorted(arrays)}, lacks {missing}; give {WANTED}"
        )
    mu, sigma = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"reference={path}: mu {mu.shape} and sigma {sigma.shape} must be (D,) and "
            "(D, D); make the file again"
        )
    found = str(arrays["features"]) if "features" in arrays else None
    if None not in (features, found) and features != found:
        raise DataError(
            f"reference={path}: made with features={found!r}, not {features!r}; "
            "evaluate with the same features"
        )
    return Stats(mu, sigma, int(arrays["num"]) if "num" in arrays else None, found)
