"""Frechet distance: closed forms, reference values, what it refuses.

The reference values are those of torch-fidelity (Apache-2.0), pytorch-fid (Apache-2.0)
and clean-fid (MIT), which agree to 2e-9, on the synthetic float32 features of
`parity/metric_features.npz`; covariances in float64. The first set is the generated
one.
"""

import pathlib

import jaxtyping
import numpy as np
import pytest
import scipy.linalg

from kdiff_jax.errors import NumericsError
from kdiff_jax.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)

PARITY = pathlib.Path(__file__).parent.parent / "parity" / "metric_features.npz"
ONE = np.eye(3)
SLIGHTLY = np.diag([1.0, 1.0, -5e-4])
SKEW = ONE + np.triu(np.full((3, 3), 0.5), 1)


def _moments(f):
    f = f.astype(np.float64)
    return f.mean(axis=0), np.cov(f, rowvar=False)


@pytest.mark.parametrize(
    "names, wanted, rtol",
    [
        (("feat1_gen", "feat2_real"), 1.266777729586046, 1e-5),
        # 2048 features; other rank-deficient ones: test_equal_sets_are_at_zero_...
        pytest.param(
            *(("rankdef1", "rankdef2"), 1397.2362173819529, 1e-4),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_reference_values(names, wanted, rtol):
    with np.load(PARITY) as file:
        f, f_ref = (file[name] for name in names)
    distance = frechet_distance(*_moments(f), *_moments(f_ref))
    np.testing.assert_allclose(distance, wanted, rtol=rtol)


def test_shifted_gaussians_are_the_squared_shift_apart():
    shift = np.array([3.0, 0.0, 4.0])
    assert frechet_distance(np.zeros(3), ONE, shift, ONE) == pytest.approx(
        25, abs=1e-12
    )


def test_commuting_covariances_have_a_closed_form():
    """sum (sqrt(a) - sqrt(b))^2 for common eigenvectors with eigenvalues a and b."""
    rng = np.random.default_rng(1)
    vectors = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    a, b = np.array([4.0, 1.0, 9.0, 0.0, 2.0]), np.array([1.0, 1.0, 4.0, 16.0, 0.0])
    mu = rng.normal(size=5)
    distance = frechet_distance(
        mu, (vectors * a) @ vectors.T, mu, (vectors * b) @ vectors.T
    )
    assert distance == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-6)


def test_general_covariances_agree_with_the_matrix_square_root():
    rng = np.random.default_rng(2)
    mu, sigma = _moments(rng.normal(size=(30, 6)) @ rng.normal(size=(6, 6)))
    mu_ref, sigma_ref = _moments(rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6)))
    root = scipy.linalg.sqrtm(sigma @ sigma_ref).real
    wanted = np.square(mu - mu_ref).sum() + np.trace(sigma + sigma_ref - 2 * root)
    distance = frechet_distance(mu, sigma, mu_ref, sigma_ref)
    assert distance == pytest.approx(wanted, rel=1e-9)
    swapped = frechet_distance(mu_ref, sigma_ref, mu, sigma)
    assert distance == pytest.approx(swapped, rel=1e-9)


def test_equal_sets_are_at_zero_even_when_rank_deficient():
    """Eight vectors in 40 dimensions: 33 eigenvalues are 0 up to rounding's sign."""
    mu, sigma = _moments(np.random.default_rng(3).normal(size=(8, 40)))
    assert np.linalg.eigvalsh(sigma)[0] < 0  # the case in question
    distance = frechet_distance(mu, sigma, mu, sigma)
    assert 0 <= distance < 1e-5 * np.trace(sigma)


def test_rounding_to_float32_leaves_a_covariance():
    """Of fewer images than features, of sums in float64 or float32, kept in float32."""
    rng = np.random.default_rng(5)
    for num, dim in ((2, 3), (18, 64), (100, 400)):
        f = rng.gamma(1, 0.3, (num, dim)).astype(np.float32)
        mu, sigma = _moments(f)
        centred = f - f.mean(axis=0)
        summed = centred.T @ centred / np.float32(num - 1)
        assert np.linalg.eigvalsh(sigma.astype(np.float32).astype(np.float64))[0] < 0
        for kept in (sigma.astype(np.float32), summed):
            distance = frechet_distance(mu, sigma, mu, kept)
            assert 0 <= distance < 1e-2 * np.trace(sigma)


def test_constant_features_have_a_distance():
    zero = np.zeros((3, 3))
    assert frechet_distance(np.zeros(3), zero, np.ones(3), zero) == pytest.approx(3)
    assert frechet_distance(np.zeros(3), zero, np.zeros(3), ONE) == pytest.approx(3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.array([0, np.nan, 0]), ONE, np.zeros(3), ONE), r"mu=1 of 3 .*NaN"),
        (
            (np.zeros(3), ONE, np.zeros(3), np.full((3, 3), np.inf)),
            r"sigma_ref=9 of 9 .*NaN",
        ),
        ((np.zeros(3), ONE, np.zeros(2), np.eye(2)), r"mu=3 features, mu_ref=2"),
        ((np.zeros(3), -ONE, np.zeros(3), ONE), r"sigma=eigenvalues .*below 0"),
        ((np.zeros(3), ONE, np.zeros(3), -ONE), r"sigma_ref=eigenvalues .*below 0"),
        ((np.zeros(3), ONE, np.zeros(3), SLIGHTLY), r"sigma_ref=eigenvalues .*below 0"),
        ((np.zeros(3), ONE, np.zeros(3), SKEW), r"sigma_ref is not symmetric: .* 0.5;"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        frechet_distance(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (frechet_distance, (np.zeros(3), ONE + 0j, np.zeros(3), ONE), "sigma"),
        (frechet_distance, (np.zeros(3), ONE, 1j * np.ones(3), ONE), "mu_ref"),
        (kernel_distance, (ONE, ONE + 1j), "f_ref"),
        (precision_recall, (ONE + 1j, ONE, 1), "f_ref"),
        (inception_score, (1j * np.ones((10, 3)),), "logits"),
    ],
)
def test_imaginary_parts_are_not_dropped(function, arguments, name, monkeypatch):
    # As without the checks of annotations, which only tests have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(NumericsError, match=f"^{name}: holds complex numbers: .*real"):
        function(*arguments)
