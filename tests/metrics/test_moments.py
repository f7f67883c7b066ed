"""Streamed moments are numpy's, in any order of batches."""

import numpy as np
import pytest

from kdiff_jax.errors import DataError
from kdiff_jax.metrics import Moments


def _stream(f, sizes):
    moments, start = Moments(), 0
    for size in sizes:
        moments = moments.update(f[start : start + size])
        start += size
    return moments


def test_batches_give_the_moments_of_all():
    f = np.random.default_rng(0).normal(size=(103, 5)) @ np.diag([1, 2, 3, 4, 5.0])
    moments = _stream(f, [1, 50, 2, 50])
    assert moments.num == 103
    np.testing.assert_allclose(moments.mu, f.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.sigma, np.cov(f.T), rtol=1e-12, atol=1e-12)


def test_merging_is_streaming():
    f = np.random.default_rng(1).normal(size=(60, 4))
    merged = _stream(f[:20], [20]).merge(_stream(f[20:], [39, 1]))
    np.testing.assert_allclose(merged.sigma, np.cov(f.T), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(merged.merge(Moments()).sigma, merged.sigma)
    np.testing.assert_array_equal(Moments().merge(merged).sigma, merged.sigma)


def test_a_large_mean_costs_no_precision():
    """Sums of squares in float64 would lose all digits of a unit variance at 1e8."""
    f = np.random.default_rng(2).normal(size=(1000, 3))
    moments = _stream(f + 1e8, [100] * 10)
    np.testing.assert_allclose(moments.sigma, np.cov(f.T), rtol=0, atol=1e-6)


def test_float32_features_are_summed_in_float64():
    f = np.random.default_rng(3).normal(size=(500, 3)).astype(np.float32) + 100
    moments = _stream(f, [250, 250])
    wanted = np.cov(f.astype(np.float64).T)
    np.testing.assert_allclose(moments.sigma, wanted, rtol=1e-11, atol=1e-11)


def test_nonsense_is_refused():
    with pytest.raises(DataError, match="num=1: a covariance needs two"):
        _ = Moments().update(np.zeros((1, 2))).sigma
    with pytest.raises(ValueError, match="features=3 a row, 2 so far"):
        Moments().update(np.zeros((1, 2))).update(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="features=1 of 2 rows hold NaN"):
        Moments().update(np.array([[0.0], [np.nan]]))


@pytest.mark.slow  # by default: the same at 103 x 5
def test_fifty_thousand_images_of_inception_are_numpys():
    """Of non-negative float32 features with a mean larger than their spread."""
    rng = np.random.default_rng(4)
    f = np.abs(rng.standard_normal((50_000, 2048), dtype=np.float32)) / 3 + 1
    moments = _stream(f, [250] * 200)
    whole = f.astype(np.float64)
    np.testing.assert_allclose(moments.mu, whole.mean(axis=0), rtol=1e-12)
    whole -= whole.mean(axis=0)
    wanted = whole.T @ whole / (len(f) - 1)
    np.testing.assert_allclose(moments.sigma, wanted, rtol=0, atol=1e-12)
