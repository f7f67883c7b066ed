"""Balls and neighbours: a drawing by hand, extremes, reference values.

Reference: torch-fidelity (Apache-2.0) and prdc (MIT) on the features of
`parity/metric_features.npz`.
"""

import pathlib

import numpy as np
import pytest

from kdiff_jax.metrics import density_coverage, manifold, precision_recall

PARITY = pathlib.Path(__file__).parent.parent / "parity" / "metric_features.npz"


@pytest.mark.parametrize("rows", [500, 2048])
@pytest.mark.parametrize(
    "k, precision, recall",
    [(3, 0.9033333333333333, 0.2658333333333333), (5, 0.9446666666666667, 0.34)],
)
def test_reference_values(monkeypatch, rows, k, precision, recall):
    monkeypatch.setattr(manifold, "ROWS", rows)
    with np.load(PARITY) as file:
        found = precision_recall(file["feat2_real"], file["feat1_gen"], k)
    assert found == pytest.approx((precision, recall), abs=1e-12)


@pytest.mark.parametrize("rows", [500, 2048])
@pytest.mark.parametrize(
    "k, density, coverage",
    [(3, 3.9593333333333334, 0.9966666666666667), (5, 3.7870666666666666, 1)],
)
def test_reference_values_of_density(monkeypatch, rows, k, density, coverage):
    monkeypatch.setattr(manifold, "ROWS", rows)
    with np.load(PARITY) as file:
        f_ref, f = file["feat2_real"], file["feat1_gen"]
    found = density_coverage(f_ref, f, k)
    assert found == pytest.approx((density, coverage), abs=1e-12)
    assert manifold.prdc(f_ref, f, 3, k) == (precision_recall(f_ref, f, 3), found)


def test_density_and_coverage_by_hand():
    """Balls as below: 1.9, 3, -5 lie in 2, 1 and 0 of them; two of three hold one."""
    real, samples = np.array([[0.0], [1.0], [10.0]]), np.array([[1.9], [3.0], [-5.0]])
    assert density_coverage(real, samples, k=1) == pytest.approx((1, 2 / 3))


def test_neighbours_are_those_of_all_distances(monkeypatch):
    """Also where the features are far from zero, and blocks are not full."""
    rng = np.random.default_rng(2)
    f, f_ref = (1e3 + rng.normal(size=(n, 6)) for n in (23, 40))
    distances = np.linalg.norm(f[:, None] - f_ref[None], axis=-1)
    monkeypatch.setattr(manifold, "ROWS", 10)
    places, found = manifold.nearest(f, f_ref)
    np.testing.assert_array_equal(places, distances.argmin(axis=1))
    np.testing.assert_allclose(found, distances.min(axis=1), rtol=1e-5)
    own = np.sort(np.linalg.norm(f[:, None] - f[None], axis=-1), axis=1)
    np.testing.assert_allclose(manifold.radii(f, 2), own[:, 2], rtol=1e-5)


def test_a_drawing_by_hand():
    """k = 1 on a line. Real 0, 1, 10: balls [-1, 1], [0, 2], [1, 19].

    Samples 2, 3, -5: the first two lie in a ball: 2/3. Their balls [1, 3], [2, 4],
    [-12, 2] hold 0 and 1, not 10: 2/3.
    """
    real, samples = np.array([[0.0], [1.0], [10.0]]), np.array([[2.0], [3.0], [-5.0]])
    assert precision_recall(real, samples, k=1) == pytest.approx((2 / 3, 2 / 3))


def test_sharp_but_few_is_precise_and_recalls_little():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 2))
    mode = 0.01 * rng.normal(size=(200, 2))
    found = precision_recall(real, mode)
    assert found.precision == 1 and found.recall < 0.05


def test_equal_sets_score_one_and_distant_ones_zero():
    f = np.random.default_rng(1).normal(size=(20, 3))
    assert precision_recall(f, f) == (1, 1)
    assert precision_recall(f, f + 1000) == (0, 0)


@pytest.mark.parametrize(
    "f_ref, f, k, message",
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), 3, r"f_ref=\(3, 2\).*N >= 4"),
        (np.zeros((9, 2)), np.zeros((9, 3)), 3, r"f=3 features, f_ref=2"),
        (np.zeros((9, 2)), np.zeros((9, 2)), 0, r"k=0: neighbours count from 1"),
    ],
)
def test_nonsense_is_refused(f_ref, f, k, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(f_ref, f, k)
