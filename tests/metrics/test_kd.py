"""Kernel distance: hand arithmetic, unbiasedness, reference values.

Reference: torch-fidelity (Apache-2.0) and clean-fid (MIT) on the features of
`parity/metric_features.npz`, in float32; sums of a million kernels cancel to 0.01
there, which costs 5e-5 (the two differ by 2e-5 from each other).
"""

import pathlib

import numpy as np
import pytest
from tolerance import LOSS

from kdiff_jax.metrics import kd, kernel_distance, kernel_distance_subsets
from kdiff_jax.metrics.kd import Kernel

PARITY = pathlib.Path(__file__).parent.parent / "parity" / "metric_features.npz"


def _features(*names):
    with np.load(PARITY) as file:
        return [file[name] for name in names]


@pytest.mark.parametrize(
    "names, num, wanted, wanted_subsets",
    [
        (
            ("feat1_gen", "feat2_real"),
            1200,
            (0.0114898681640625, 0.011490071192383766),
            (0.015295314788818359, 0.02996294731758531),
        ),
        (
            ("rankdef1", "rankdef2"),
            80,
            (0.09962654113769531, 0.09962616115808487),
            (0.09896507263183593, 0.004589449952088143),
        ),
    ],
)
def test_reference_values(names, num, wanted, wanted_subsets):
    f, f_ref = _features(*names)
    distance = kernel_distance(f[:num], f_ref[:num])
    np.testing.assert_allclose([distance] * 2, wanted, **LOSS)
    spread = kernel_distance_subsets(f, f_ref, num_subsets=20, subset_size=50)
    np.testing.assert_allclose(spread, wanted_subsets, **LOSS)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            dict(num_subsets=100, subset_size=200),
            (0.10348721027374268, 0.01840069371990112),
        ),
        (dict(kernel=Kernel(degree=2)), (0.06056852340698242, 0.021318137123843527)),
        (
            dict(kernel=Kernel(gamma=0.02, coef0=0.5)),
            (0.01961836338043213, 0.006689446917675758),
        ),
        (dict(seed=7), (0.11821655750274658, 0.04609065504847554)),
        (
            dict(kernel=Kernel(rbf_sigma=10.0)),
            (0.007504843354293383, 0.002222148657247419),
        ),
    ],
)
def test_reference_values_of_other_kernels_subsets_and_seeds(options, wanted):
    with np.load(PARITY.with_name("metric_features_16bit.npz")) as file:
        f, f_ref = (np.float32(file[name]) for name in ("feat1", "feat2"))
    spread = kernel_distance_subsets(
        f, f_ref, **dict(num_subsets=50, subset_size=100) | options
    )
    np.testing.assert_allclose(spread, wanted, **LOSS)


def test_a_value_by_hand():
    """D = 1, k(a, b) = (ab + 1)^3; f = (0, 1), ref = (1, 2, 0).

    within f: k(0, 1) = 1. Within ref: (k(1,2) + k(1,0) + k(2,0)) / 3 = 29/3.
    Between: k(0,.) = 1, 1, 1 and k(1,.) = 8, 27, 1, mean 39/6.
    """
    f, f_ref = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0], [0.0]])
    assert kernel_distance(f, f_ref) == pytest.approx(1 + 29 / 3 - 2 * 39 / 6)


def test_blocks_of_rows_change_nothing(monkeypatch):
    f, f_ref = _features("feat1_gen", "feat2_real")
    whole = kernel_distance(f, f_ref)
    monkeypatch.setattr(kd, "ROWS", 700)
    assert kernel_distance(f, f_ref) == pytest.approx(whole, rel=1e-9)


def test_it_is_unbiased_for_equal_distributions():
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(30, 4)))
        for _ in range(300)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


@pytest.mark.parametrize(
    "f, f_ref, message",
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), r"f=2 features, f_ref=1"),
        (np.zeros((1, 2)), np.zeros((3, 2)), r"f=\(1, 2\).*N >= 2"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), r"f=3 of 3 rows hold NaN"),
    ],
)
def test_nonsense_is_refused(f, f_ref, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(f, f_ref)


def test_a_subset_larger_than_a_set_is_refused():
    with pytest.raises(ValueError, match=r"subset_size=1000: must be in \[2, 3\]"):
        kernel_distance_subsets(np.zeros((3, 2)), np.zeros((5, 2)))
