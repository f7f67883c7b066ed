"""Metrics by name: what they need, how figures are called, and what is refused."""

import numpy as np
import pytest

from kdiff_jax import metrics
from kdiff_jax.errors import ConfigError, DataError, NumericsError
from kdiff_jax.features import Extractor
from kdiff_jax.metrics import fd_inf, groups, table
from kdiff_jax.metrics.collect import Collector
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.frechet import To
from kdiff_jax.metrics.seen import Seen, of_rows
from kdiff_jax.partition import ONE, Partition

PIXELS = metrics.make("pixels")


def seen(rows, labels=None, logits=None):
    rows = np.asarray(rows, np.float32)
    return Seen(of_rows(rows), rows, logits, None, labels)


def normal(num, dim=3, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, (num, dim))


def images(num, seed=0):
    shape = (num, 2, 2, 1)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def collected(needs, num, batches):
    every, collector = images(num), Collector(PIXELS, needs, num, (2, 2, 1))
    for places in batches:
        collector.add(places, every[places])
    return collector.seen()


def test_every_file_is_a_metric_by_its_name():
    wanted = (
        "class_accuracy clip_score fd fd_inf inception_score kd kd_full memorisation"
        " prdc sfd"
    )
    assert table.names() == wanted.split()
    found = table.measure(
        ["fd", "fd_inf", "kd", "kd_full", "memorisation", "prdc"],
        PIXELS,
        seen(normal(60)),
        seen(normal(50, seed=1)),
    )
    figures = (
        "fd fd_inf kd kd_std kd_full memorised nearest precision recall density"
        " coverage"
    )
    assert list(found) == [metrics.figure_name("pixels", n) for n in figures.split()]
    assert {"fd_pixels", "fd_inf_pixels", "kd_pixels", "kd_pixels_std"} < set(found)
    assert all(np.isfinite(list(found.values())))


def test_established_names_are_kept(monkeypatch):
    established = Extractor({"a": 3}, "a", figures={"fd": "fid"})
    monkeypatch.setattr("kdiff_jax.features.pixels.EXTRACTOR", established)
    assert metrics.figure_name("pixels", "fd") == "fid"
    assert metrics.figure_name("pixels", "fd_low") == "fid_low"
    assert metrics.figure_name("pixels", "kd_std") == "kd_pixels_std"


def test_neither_batches_nor_their_order_change_what_is_collected():
    order = np.random.default_rng(5).permutation(103)
    whole = collected({"rows", "moments"}, 103, [np.arange(103)])
    parts = collected({"rows", "moments"}, 103, np.split(order, [7, 64, 65]))
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_array_equal(parts.main.sigma, whole.main.sigma)
    streamed = collected({"moments"}, 103, np.split(order, [7, 64, 65]))
    assert streamed.rows is None
    np.testing.assert_allclose(streamed.main.sigma, whole.main.sigma, rtol=1e-5)
    np.testing.assert_allclose(streamed.main.mu, whole.main.mu, rtol=1e-5)


def test_what_is_no_image_or_no_number_is_refused():
    collector = Collector(PIXELS, {"rows"}, 4, (2, 2, 1))
    for wrong in (images(4) / 255, images(4)[..., 0]):
        with pytest.raises(DataError, match="bytes, uint8 .N, H, W, C. in 0 to 255"):
            collector.add(np.arange(4), wrong)

    def broken(x, preprocessing):
        return {"x": np.full((len(x), 1), np.nan)}

    nan = Features("x", Extractor({"x": 1}, "x", prepare=broken, channels=1), {}, "")
    for needs in ({"rows"}, {"moments"}):
        with pytest.raises(NumericsError, match="features=4 of 4 rows hold NaN"):
            Collector(nan, needs, 4, (2, 2, 1)).add(np.arange(4), images(4))
    with pytest.raises(ConfigError, match="needs .* GB of memory.* keep 4 features of"):
        Collector(PIXELS, {"rows"}, 10**14, (2, 2, 1))


def test_intervals_hold_the_figure_and_shrink_with_the_samples():
    theirs = seen(normal(4000, seed=1))

    def width(num, *others):
        ours = seen(normal(num, shift=1.0))
        found = table.measure(["fd", *others], PIXELS, ours, theirs, bootstrap=50)
        low, high = found["fd_pixels_low"], found["fd_pixels_high"]
        assert low < found["fd_pixels"] < high
        return high - low

    wide, narrow = width(100, "kd"), width(1600)
    assert 2.5 < wide / narrow < 6  # 4, were there no noise


def test_the_limit_has_less_bias_than_the_distance():
    """4 features, N = 200: the distance to itself is about 10 / 200."""
    mu, sigma = np.zeros(4), np.eye(4)
    to, rows = To(mu, sigma), [normal(200, dim=4, seed=s) for s in range(20)]
    limits = [fd_inf.extrapolated(one.astype(np.float32), to) for one in rows]
    plain = [to.distance(one.mean(0), np.cov(one.T)) for one in rows]
    assert np.mean(plain) > 0.02
    assert abs(np.mean(limits)) < 0.2 * np.mean(plain)


def test_copies_are_told_from_new_images():
    train, names = normal(300), ["memorisation"]
    new = table.measure(names, PIXELS, seen(normal(300, seed=1)), seen(train))
    copies = table.measure(names, PIXELS, seen(train[:100] + 1e-4), seen(train))
    assert 0.4 < new["memorised_pixels"] < 0.6 and 0.8 < new["nearest_pixels"] < 1.25
    assert copies["memorised_pixels"] == 1 and copies["nearest_pixels"] < 1e-2


def test_groups_are_measured_against_their_own_part():
    labels = np.arange(90) % 3
    shifts = 10.0 * labels[:, None]
    ours = seen(normal(90) + shifts, labels)
    theirs = seen(normal(90, seed=1) + shifts, labels)
    parts = groups.of("student", 3, Partition(groups=((0, 2), (1,))))
    found = groups.measure(["fd", "sfd"], PIXELS, ours, theirs, parts)
    assert [one["num_images"] for one in found.values()] == [60, 30]
    places = np.flatnonzero(labels == 1)
    alone = table.measure(["fd"], PIXELS, ours.part(places), theirs.part(places))
    assert found["1"]["fd_pixels"] == alone["fd_pixels"] < 1
    assert set(found["1"]) == {"num_images", "fd_pixels"}
    assert list(groups.of("class", 3, ONE)) == ["0", "1", "2"]
    assert groups.measure(["fd"], PIXELS, ours, theirs, {"9": np.array([9])}) == {}


def test_a_metric_that_needs_more_images_is_left_out_of_a_group_alone():
    labels = np.repeat([0, 1], [8, 30])
    ours, theirs = (seen(normal(38, seed=s), labels) for s in (0, 1))
    parts = groups.of("class", 2, ONE)
    found = groups.measure(["fd", "fd_inf", "kd"], PIXELS, ours, theirs, parts)
    assert found["0"].keys() == {
        "num_images",
        "fd_pixels",
        "kd_pixels",
        "kd_pixels_std",
    }
    assert found["1"].keys() == {*found["0"], "fd_inf_pixels"}


def test_what_is_infinite_is_no_figure(caplog):
    """Training images that are all copies leave no typical distance."""
    same, names = seen(np.ones((9, 2)), np.zeros(9)), ["fd", "memorisation"]
    figures = table.measure(names, PIXELS, seen(normal(9, dim=2), np.zeros(9)), same)
    assert figures["nearest_pixels"] == np.inf
    assert list(table.finite(figures)) == ["fd_pixels", "memorised_pixels"]
    (line,) = caplog.messages
    assert line == "nearest_pixels=inf: no finite figure, and left out"
    ours = seen(normal(9, dim=2), np.zeros(9))
    group = groups.measure(names, PIXELS, ours, same, {"0": np.zeros(1)})["0"]
    assert list(group) == ["num_images", "fd_pixels", "memorised_pixels"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("class", 0, ONE), "per=class: the model knows no classes"),
        (("student", 3, ONE), "per=student: one student owns all classes"),
    ],
)
def test_groups_that_are_none_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        groups.of(*arguments)
