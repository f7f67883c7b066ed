"""What makes figures worth little is said, in one line each."""

import numpy as np
import pytest

from kdiff_jax import metrics
from kdiff_jax.metrics import caveats, groups, table
from kdiff_jax.metrics.seen import Gaussian, Seen, of_rows
from kdiff_jax.partition import ONE

PIXELS = metrics.make("pixels")


def seen(rows, labels=None):
    rows = np.asarray(rows, np.float32)
    return Seen(of_rows(rows), rows, labels=labels)


def normal(num, dim=3, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, (num, dim))


def test_few_samples_are_warned_of_with_their_bias(caplog):
    """The bias is that of samples of the reference itself."""
    ours, theirs = seen(normal(5, dim=8)), seen(normal(4000, dim=8, seed=1))
    caveats.of_samples(["fd"], PIXELS, ours, theirs)
    caveats.of_samples(["kd"], PIXELS, ours, theirs)
    caveats.of_samples(["fd"], PIXELS, seen(normal(9, dim=8)), theirs)
    (line,) = caplog.messages
    assert line.startswith("num_images=5: no more than the 8 features")
    told = float(line.partition("at about ")[2].partition(")")[0])
    runs = [seen(normal(5, dim=8, seed=s)) for s in range(20)]
    biases = [table.measure(["fd"], PIXELS, one, theirs)["fd_pixels"] for one in runs]
    assert min(biases) < told < max(biases)


def test_equal_images_are_told(caplog):
    rounded = 1 / 3 + 1e-8 * np.random.default_rng(0).normal(size=(9, 2))
    same = Seen(of_rows(rounded))
    assert same.main.sigma.any()
    caveats.of_samples(["fd"], PIXELS, same, seen(normal(9, dim=2)))
    assert caplog.messages == ["num_images=9: all images have the same features"]


@pytest.mark.parametrize("num", [2, 5, 6])
def test_the_bias_is_the_distance_of_draws(num):
    """Of the same normal numbers, by the covariance's square root."""
    rng = np.random.default_rng(7)
    mixed = rng.normal(size=(6, 4))  # a covariance that lacks rank
    mu, sigma = rng.normal(size=6), mixed @ mixed.T
    values, vectors = np.linalg.eigh(sigma)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    rows = np.random.RandomState(0).standard_normal((num, 6)) @ root + mu
    wanted = metrics.frechet_distance(rows.mean(0), np.cov(rows.T), mu, sigma)
    found = caveats.bias(Gaussian(mu, sigma, 99), num)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_few_samples_of_more_than_2048_features_have_their_bias_too(caplog):
    theirs = Seen(Gaussian(np.zeros(2500), np.eye(2500), None))
    ours = seen(normal(3, dim=2500))
    caveats.of_samples(["fd"], PIXELS, ours, theirs)
    (line,) = caplog.messages
    told = float(line.partition("at about ")[2].partition(")")[0])
    # To the identity: eigenvalues of the samples' covariance are all that is needed.
    centred = ours.rows - ours.main.mu
    variances = np.linalg.eigvalsh(centred @ centred.T / 2)[1:]
    own = np.square(ours.main.mu).sum() + np.square(np.sqrt(variances) - 1).sum() + 2498
    assert told == pytest.approx(own, rel=0.1)


def test_a_reference_of_few_images_is_told_with_its_bias(caplog):
    theirs = seen(normal(40, dim=64))
    caveats.of_reference("few.npz", ["fd"], theirs)
    (line,) = caplog.messages
    assert line.startswith("reference=few.npz: 40 images, no more than the 64 features")
    assert "a perfect model would be at about" in line
    caveats.of_reference("few.npz", ["kd"], theirs)
    caveats.of_reference("whole.npz", ["fd"], seen(normal(65, dim=64)))
    caveats.of_reference("foreign.npz", ["fd"], Seen(theirs.main._replace(num=None)))
    assert len(caplog.messages) == 1


def test_a_reference_of_equal_images_is_told_whatever_is_measured(caplog):
    same = seen(np.full((9, 2), 1 / 3))
    for wanted in (["fd"], ["kd"]):
        caveats.of_reference("grey.npz", wanted, same)
    line = "reference=grey.npz: all images have the same features"
    assert len(caplog.messages) == 2
    assert all(one.startswith(line) for one in caplog.messages)
    # A perfect model's distance to one point says nothing.
    caveats.of_samples(["fd"], PIXELS, seen(normal(2, dim=2)), same)
    assert "perfect" not in caplog.messages[-1] and len(caplog.messages) == 3


def test_small_groups_are_told_in_a_line_for_all(caplog):
    labels = np.arange(80) % 10
    ours, theirs = (seen(normal(80, dim=64, seed=s), labels) for s in (0, 1))
    parts = groups.of("class", 10, ONE)
    caveats.of_groups(["fd", "fd_inf", "kd", "sfd"], ours, theirs, parts)
    assert caplog.messages == [
        "groups: fd_inf left out of 10 of 10, which have fewer than 20 images (0: 8,"
        " 1: 8, 2: 8, ...)",
        "groups: 10 of 10 have no more images than the 64 features (0: 8, 1: 8, 2: 8,"
        " ...), so that their distances are too large; compare groups of as many images"
        " alone",
    ]
    caplog.clear()
    caveats.of_groups(["kd"], ours, theirs, parts | {"9": np.array([11])})
    (line,) = caplog.messages
    assert line.endswith(
        "kd left out of 1 of 10, which have fewer than 2 images (9: 0)"
    )
