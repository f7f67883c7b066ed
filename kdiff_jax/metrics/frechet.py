"""Frechet distance between two Gaussians, in float64 on the host.

Knows nothing of images or networks: which features the moments describe decides the
name of the number (`fd_pixels`, `fd_resnet56`, FID for Inception's).
"""

import numpy as np
from jaxtyping import Float

from kdiff_jax.errors import NumericsError
from kdiff_jax.metrics.checks import Numbers, check_real

# Rounding turns the zeros of a rank-deficient covariance into eigenvalues below 0.
# Measured at up to 2048 features, as fractions of the largest one: 1e-15 of sums in
# float64, 2e-8 where those are kept in float32 (half its last digit is 6e-8, and norms
# of random rounding are less), 1e-7 of sums of centred features in float32. Beyond
# this fraction the matrix is no covariance, or one of which float32 has lost too much:
# sums of features as they are, whose squared mean is taken off in float32.
NEGATIVE = 1e-6
ASYMMETRY = 1e-5  # of the largest number: rounding of sums in float32


def frechet_distance(
    mu: Float[Numbers, " D"],
    sigma: Float[Numbers, "D D"],
    mu_ref: Float[Numbers, " D_ref"],
    sigma_ref: Float[Numbers, "D_ref D_ref"],
) -> float:
    """Squared Frechet (2-Wasserstein) distance of N(mu, sigma) to N(mu_ref, sigma_ref).

    |mu - mu_ref|^2 + tr(sigma + sigma_ref - 2 (sigma sigma_ref)^(1/2))

    Args:
        mu: Mean of the features.
        sigma: Their covariance; symmetric, may be rank-deficient.
        mu_ref: Mean of the reference features.
        sigma_ref: Their covariance.

    Returns:
        The distance, >= 0; 0 for equal moments. Rounding is at most 2e-8 D times the
        largest eigenvalue, where covariances lack rank, and far less where they do not.

    Raises:
        ValueError: If the sizes differ.
        NumericsError: If a number is complex, it or the distance is not finite, or a
            matrix is not symmetric or has eigenvalues too negative to be rounding.

    Source: Heusel et al. 2017, arXiv:1706.08500, Eq. 6; Dowson & Landau 1982.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> one = np.eye(2)
        >>> round(metrics.frechet_distance(np.zeros(2), one, np.ones(2), 4 * one), 6)
        4.0
    """
    mu, sigma = _checked("mu", mu, "sigma", sigma)
    mu_ref, sigma_ref = _checked("mu_ref", mu_ref, "sigma_ref", sigma_ref)
    if len(mu) != len(mu_ref):
        raise ValueError(
            f"mu={len(mu)} features, mu_ref={len(mu_ref)}: sizes must agree; "
            "compute both with the same features"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # the end says so
        return _distance(mu, sigma, mu_ref, sigma_ref)


class To:
    """Distances to one reference, whose square root is taken once.

    Args:
        mu_ref: Mean of the reference features.
        sigma_ref: Their covariance.

    Raises:
        ValueError: As `frechet_distance`.
    """

    def __init__(
        self, mu_ref: Float[Numbers, " D"], sigma_ref: Float[Numbers, "D D"]
    ) -> None:
        self._moments = _checked("mu_ref", mu_ref, "sigma_ref", sigma_ref)
        self._root = _square_root(self._moments[1])

    def distance(self, mu: Float[Numbers, " D"], sigma: Float[Numbers, "D D"]) -> float:
        """As `frechet_distance`, of moments taken from features just now."""
        mu, sigma = _checked("mu", mu, "sigma", sigma)
        return _from_root(self._root, *self._moments, mu, sigma)


def _distance(mu, sigma, mu_ref, sigma_ref) -> float:
    root = _square_root(sigma)
    check_spectrum("sigma_ref", np.linalg.eigvalsh(sigma_ref))
    return _from_root(root, mu, sigma, mu_ref, sigma_ref)


def _from_root(root, mu, sigma, mu_ref, sigma_ref) -> float:
    """The distance; `root` is the square root of `sigma`."""
    # sigma sigma_ref and root sigma_ref root have the same eigenvalues; only the second
    # is symmetric, so no complex square root of an ill-conditioned product is needed.
    product = root @ sigma_ref @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    trace_root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    traces = np.trace(sigma) + np.trace(sigma_ref)
    distance = np.square(mu - mu_ref).sum() + traces - 2 * trace_root
    if not np.isfinite(distance):
        raise NumericsError(
            f"distance={distance}: moments as large as {np.abs(mu_ref).max():.3g} and"
            f" {np.abs(sigma_ref).max():.3g} leave float64; look at the features"
        )
    return float(max(distance, 0.0))  # equal moments leave rounding of either sign


def _checked(mu_name, mu, sigma_name, sigma):
    check_real(mu_name, mu)
    check_real(sigma_name, sigma)
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{mu_name}={mu.shape}, {sigma_name}={sigma.shape}: shapes must be (D,) "
            "and (D, D); pass a mean and a covariance"
        )
    for name, value in ((mu_name, mu), (sigma_name, sigma)):
        if not np.isfinite(value).all():
            bad = np.count_nonzero(~np.isfinite(value))
            raise NumericsError(
                f"{name}={bad} of {value.size} numbers are NaN or infinite: moments "
                "must be finite; look for NaN in the images or features"
            )
    check_symmetric(sigma_name, sigma)
    return mu, (sigma + sigma.T) / 2


def _square_root(sigma):
    """Symmetric square root; rounding's negative eigenvalues count as zero."""
    eigenvalues, vectors = np.linalg.eigh(sigma)
    check_spectrum("sigma", eigenvalues)
    return (vectors * np.sqrt(np.clip(eigenvalues, 0, None))) @ vectors.T


def check_symmetric(name: str, sigma: Float[np.ndarray, "D D"]) -> None:
    """Raises NumericsError if a matrix and its transpose differ beyond rounding."""
    size = np.abs(sigma).max(initial=0.0)
    apart = np.abs(sigma - sigma.T).max(initial=0.0)
    if apart > ASYMMETRY * size:
        raise NumericsError(
            f"{name} is not symmetric: of numbers up to {size:.3g}, those across the"
            f" diagonal differ by up to {apart:.3g}; give all of a covariance"
        )


def check_spectrum(name: str, eigenvalues: Float[np.ndarray, " D"]) -> None:
    """Raises NumericsError if the eigenvalues, in order, are of no covariance."""
    low, high = eigenvalues[0], eigenvalues[-1]
    if low < -NEGATIVE * max(high, 0.0):
        raise NumericsError(
            f"{name}=eigenvalues from {low:.3g} to {high:.3g}: a covariance has none "
            "below 0; recompute the moments in float64"
        )
