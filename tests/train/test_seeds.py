"""Labels of measured images by protocols of papers, and figures of several seeds."""

import math

import numpy as np
import pytest

from kdiff_jax.errors import ConfigError
from kdiff_jax.train import label_protocols, seeds
from kdiff_jax.train.seeds import Measured


def test_labels_in_turn_are_those_of_dmd2():
    found = label_protocols.labels("arange", 7, 3, seed=5)
    assert found.tolist() == [0, 1, 2, 0, 1, 2, 0] and found.dtype == np.int32
    assert label_protocols.labels("arange", 4, 0, seed=5).tolist() == [0] * 4
    assert label_protocols.of_row("arange", 0) is None


def test_drawn_labels_are_uniform_and_belong_to_the_seed_and_the_image():
    found = label_protocols.labels("random", 20_000, 10, seed=5)
    assert found.dtype == np.int32
    # Philox4x64-10 of key 5: the first output, mod 10, pins the protocol for ever.
    first = int(np.random.Philox(key=5).random_raw()) % 10
    assert found[0] == first
    few = label_protocols.labels("random", 7, 10, seed=5)
    np.testing.assert_array_equal(few, found[:7])
    other = label_protocols.labels("random", 20_000, 10, seed=6)
    counts = np.bincount(found, minlength=10)
    assert abs(counts - 2000).max() < 5 * math.sqrt(20_000 * 0.1 * 0.9)
    assert abs((found == other).mean() - 0.1) < 0.01
    assert abs((found[1:] == found[:-1]).mean() - 0.1) < 0.01
    with pytest.raises(ConfigError, match="labels=random: the model knows no classes"):
        label_protocols.labels("random", 7, 0, seed=5)


EACH = [
    Measured(3, {"precision_x": 0.5, "fid": 2.0, "fid_low": 1.5, "kid_std": 0.1}),
    Measured(4, {"precision_x": 0.7, "fid": 1.0, "fid_low": 0.5, "kid_std": 0.1}),
    Measured(5, {"precision_x": 0.6, "fid": math.nan, "fid_low": math.nan}),
]


def test_a_single_seed_has_its_own_figures():
    one = Measured(3, {"fid": 2.0}, {"0": {"num_images": 5}})
    found = seeds.figures_of([one], "best", "class")
    assert found == {**one._asdict(), "per": "class"}
    bare = one._replace(groups={})
    assert seeds.figures_of([bare], "best", None) == bare._asdict()


def test_the_best_row_is_that_of_one_seed():
    """Chosen by the first figure of which is known which way is better."""
    found = seeds.figures_of(EACH, "best")
    assert (found["seed"], found["metrics"]) == (4, EACH[1].metrics)
    assert found["seeds"]["by"] == "precision_x"
    each = [one._replace(metrics={"n": 1.0, "fid": one.metrics["fid"]}) for one in EACH]
    found = seeds.figures_of(each[::-1], "best")
    assert (found["seed"], found["seeds"]["by"]) == (4, "fid")
    assert found["metrics"] == {"n": 1.0, "fid": 1.0}
    # All of them are there, the NaN too.
    assert [one["seed"] for one in found["seeds"]["each"]] == [5, 4, 3]
    assert math.isnan(found["seeds"]["each"][0]["metrics"]["fid"])


def test_a_mean_row_has_no_spread_of_a_single_one(caplog):
    groups = [{"0": {"num_images": n, "fid": float(n)}} for n in (4, 7)]
    two = [one._replace(groups=g) for one, g in zip(EACH[:2], groups, strict=True)]
    found = seeds.figures_of(two, "mean")
    assert found["metrics"] == pytest.approx({"precision_x": 0.6, "fid": 1.5})
    assert found["groups"] == {"0": {"num_images": 6, "fid": 5.5}}
    assert (found["seed"], found["seeds"]["headline"]) == (3, "mean")
    assert math.isnan(seeds.figures_of(EACH, "mean")["metrics"]["fid"])
    unknown = [Measured(i, {"nearest_x": float(i)}) for i in range(2)]
    assert seeds.figures_of(unknown, "best")["metrics"] == {"nearest_x": 0.5}
    assert "nothing tells which figure is better" in caplog.text


def test_a_figure_that_a_seed_lacks_has_no_mean():
    """Drawn labels leave a group too few images for a metric."""
    figures = {"num_images": 30, "fid": 2.0, "fid_inf": 1.0}
    fewer = {"num_images": 10, "fid": 4.0}
    two = [Measured(i, {"fid": 1.0}, {"0": g}) for i, g in enumerate((figures, fewer))]
    found = seeds.figures_of(two, "mean")
    assert found["groups"] == {"0": {"num_images": 20, "fid": 3.0}}


def test_seeds_are_consecutive_and_end():
    assert list(seeds.of(1, 3)) == [1, 2, 3]
    assert list(seeds.of(2**32 - 1, 1)) == [2**32 - 1]
    with pytest.raises(ConfigError, match="seeds=2: from seed 4294967295 on they end"):
        seeds.of(2**32 - 1, 2)
