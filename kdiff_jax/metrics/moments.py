"""Mean and covariance of a stream of features, and the files that keep them."""

import io
import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdiff_jax import arrays, memory, sealed
from kdiff_jax.errors import DataError, NumericsError
from kdiff_jax.files import Unreadable, write_atomically
from kdiff_jax.metrics.checks import Numbers, check_features
from kdiff_jax.metrics.frechet import check_spectrum
from kdiff_jax.metrics.npz import read_npz

WANTED = "an .npz with mu and sigma"
ASYMMETRY = 1e-5  # of the largest number: rounding of sums in float32
LARGEST = 1e100  # whose products stay in float64


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


class Stats(NamedTuple):
    """Reference moments of a data set, as they lie on disk."""

    mu: np.ndarray  # f64[D]
    sigma: np.ndarray  # f64[D, D]
    num: int | None  # images behind them; None: the file does not say
    features: str | None  # name of the extractor; None: the file does not say


def save_stats(path: str | os.PathLike, moments: Moments, *, features: str) -> None:
    """Writes moments as an .npz of mu, sigma, num, the features' name and a digest."""
    entries = {
        "mu": moments.mu,
        "sigma": moments.sigma,
        "num": moments.num,
        "features": features,
    }
    blob = io.BytesIO()
    np.savez(blob, allow_pickle=False, **sealed.seal_arrays(entries))
    write_atomically(path, blob.getvalue())


def is_stats(path: pathlib.Path) -> bool:
    """Whether a file is an .npz of moments; not whether they are sound."""
    try:
        return {"mu", "sigma"} <= set(arrays.names(path))
    except (OSError, Unreadable):
        return False


def load_stats(
    path: str | os.PathLike, *, features: str | None = None, dim: int | None = None
) -> Stats:
    """Reads reference moments: ours, or any .npz with mu and sigma (EDM's fid-refs).

    Args:
        path: The .npz file.
        features: Name of the extractor in use; a file of another one is refused.
        dim: Number of its features.

    Raises:
        DataError: If the file is missing, damaged, of other features, or holds no mean
            and covariance.
    """
    entries = read_npz("reference", path, error=DataError, wanted=WANTED)
    try:
        entries = sealed.unseal_arrays(entries)
    except sealed.Damaged as damage:
        raise DataError(
            f"reference={path}: is damaged ({damage}); make the file again"
        ) from None
    missing = [name for name in ("mu", "sigma") if name not in entries]
    if missing:
        raise DataError(
            f"reference={path}: holds {sorted(entries)}, lacks {missing}; give {WANTED}"
        )
    mu, sigma = _checked(path, entries["mu"], entries["sigma"])
    found = str(entries["features"]) if "features" in entries else None
    if None not in (features, found) and features != found:
        raise DataError(
            f"reference={path}: made with features={found!r}, not {features!r}; "
            "evaluate with the same features"
        )
    if dim not in (None, len(mu)):
        raise DataError(
            f"reference={path}: has {len(mu)} features, and {features or 'these'} are"
            f" {dim}; evaluate with its own features, on images of its size"
        )
    return Stats(mu, sigma, _num(path, entries.get("num")), found)


def _checked(path, mu, sigma):
    """Both in float64, if they are a mean and a covariance."""
    again = "make the file again"
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise DataError(
            f"reference={path}: mu {mu.dtype} and sigma {sigma.dtype} must be real"
            f" numbers; {again}"
        )
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"reference={path}: mu {mu.shape} and sigma {sigma.shape} must be (D,) and "
            f"(D, D); {again}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"reference={path}: holds NaN or infinity; {again}")
    size = np.abs(sigma).max()
    if size > LARGEST or np.abs(mu).max() > LARGEST:
        raise DataError(
            f"reference={path}: numbers above {LARGEST:g} are no features; {again}"
        )
    if np.abs(sigma - sigma.T).max() > ASYMMETRY * size:
        raise DataError(f"reference={path}: sigma is not symmetric; {again}")
    try:
        check_spectrum("sigma", np.linalg.eigvalsh((sigma + sigma.T) / 2))
    except NumericsError as error:
        raise DataError(f"reference={path}: {error}") from error
    return mu, sigma


def _num(path, num) -> int | None:
    """How many images the file says that it is of."""
    if num is None:
        return None
    value = num.item() if num.size == 1 else None
    if num.dtype.kind not in "fiu" or value is None or not 2 <= value < 2**63:
        raise DataError(
            f"reference={path}: num={num.tolist()!r:.40} must be the number of images,"
            " 2 or more; make the file again"
        )
    return int(value)
