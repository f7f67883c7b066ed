"""Inception score: its extremes, scipy's entropies, torch-fidelity's (Apache-2.0)."""

import pathlib

import numpy as np
import pytest
import scipy

from kdiff_jax.metrics import inception_score

PARITY = pathlib.Path(__file__).parent.parent / "parity" / "metric_features_16bit.npz"


@pytest.mark.parametrize(
    ("num_splits", "seed", "wanted"),
    [
        (1, None, (3.887284402606639, 0.0)),
        (5, None, (3.7596819995751134, 0.16327862921883352)),
        (10, None, (3.6165374955622474, 0.20037095414965317)),
        (10, 2020, (3.6205567932147895, 0.19410494274142892)),
    ],
)
def test_reference_values(num_splits, seed, wanted):
    with np.load(PARITY) as file:
        logits = file["logits"]
    score = inception_score(logits, num_splits=num_splits, seed=seed)
    assert score == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_certain_and_varied_reaches_the_number_of_classes():
    logits = 1e4 * np.eye(7)[np.arange(70) % 7]
    score = inception_score(logits, num_splits=2)
    assert score == pytest.approx((7, 0), abs=1e-9)


def test_a_classifier_that_sees_nothing_gives_one():
    logits = np.tile(np.random.default_rng(0).normal(size=(1, 5)), (20, 1))
    assert inception_score(logits) == pytest.approx((1, 0))


def test_two_images_by_hand():
    """p = (3/4, 1/4) and (1/4, 3/4): each KL to (1/2, 1/2) is log 2 - H(1/4)."""
    logits = np.log([[0.75, 0.25], [0.25, 0.75]])
    wanted = 2 * 0.75**0.75 * 0.25**0.25
    assert inception_score(logits, num_splits=1).mean == pytest.approx(wanted)


def test_splits_are_scored_alone_in_the_order_asked_for():
    logits = 3 * np.random.default_rng(1).normal(size=(103, 11))

    def score(part):
        p = scipy.special.softmax(part, axis=1)
        return np.exp(scipy.stats.entropy(p, p.mean(axis=0)[None], axis=1).mean())

    order = np.random.RandomState(2020).permutation(103)
    for seed, rows in ((None, np.arange(103)), (2020, order)):
        parts = [rows[i * 103 // 4 : (i + 1) * 103 // 4] for i in range(4)]
        wanted = [score(logits[part]) for part in parts]
        found = inception_score(logits, num_splits=4, seed=seed)
        assert found == pytest.approx((np.mean(wanted), np.std(wanted)), rel=1e-12)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"logits=\(3, 2\).*N >= 10"):
        inception_score(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="logits=1 of 10 rows hold NaN"):
        inception_score(np.array([[0.0, np.nan]] + 9 * [[0.0, 0.0]]))
    with pytest.raises(ValueError, match="num_splits=0"):
        inception_score(np.zeros((3, 2)), num_splits=0)
