"""Every class and every time has one owner: rules, borders, routing, mistakes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import partition
from kdiff_jax.diffusion.process import cosine, discrete, edm
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.partition import Partition, clusters

RNG = np.random.default_rng(0)
# Twelve classes in four planted clusters of three, in an order of their own.
PLANTED = np.array([2, 0, 1, 3, 0, 2, 2, 1, 3, 0, 1, 3])
CENTERS = 10 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
EMBEDDINGS = (CENTERS[PLANTED] + RNG.normal(size=(12, 3))).astype(np.float32)


def make(**keywords):
    default = dict(process=cosine(), num_classes=12, num_groups=4)
    return partition.make(**{**default, **keywords})


@pytest.mark.parametrize(
    "keywords",
    [
        dict(rule="consecutive"),
        dict(rule="random", seed=3),
        dict(rule="kmeans", embeddings=EMBEDDINGS),
        dict(rule="pca", embeddings=EMBEDDINGS),
        dict(rule="table", table=tuple(PLANTED.tolist())),
        dict(num_groups=12),
        dict(num_groups=2, num_ranges=3),
    ],
)
def test_every_class_has_one_owner_and_survives_json(keywords):
    p = make(**keywords)
    assert p.num_students == p.num_groups * p.num_ranges
    owned = [p.labels(k, 12) for k in range(0, p.num_students, p.num_ranges)]
    assert {len(labels) for labels in owned} == {12 // p.num_groups}
    assert sorted(np.concatenate(owned)) == list(range(12))
    for k in range(p.num_students):
        assert p.labels(k, 12).dtype == np.int32
        assert (p.group_of(p.labels(k, 12)) == k // p.num_ranges).all()
    assert Partition.from_spec(json.loads(json.dumps(p.to_spec()))) == p


def test_rules_by_hand():
    assert make().groups == ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11))
    table = make(num_groups=2, rule="table", table=(0, 1) * 6)
    assert table.groups == ((0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11))
    shuffled = make(rule="random", seed=1)
    assert shuffled == make(rule="random", seed=1) != make(rule="random", seed=2)
    assert make(num_groups=1) == Partition()


def test_owners_on_both_sides_of_a_jit():
    p = make(num_groups=2, num_ranges=4)
    t = np.array([0.0, 0.25, 0.250001, 0.5, 0.75, 0.76, 1.0, -1.0, 3.0], np.float32)
    y = np.array([0, 6, 5, 11, 0, 6, 6, 0, 0], np.int32)
    ranges, groups = [0, 0, 1, 1, 2, 3, 3, 0, 3], [0, 1, 0, 1, 0, 1, 1, 0, 0]
    expected = np.array(groups) * 4 + ranges
    for found in (p.owner(t, y), p.owner(t.astype(float), y), jax.jit(p.owner)(t, y)):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
    assert isinstance(p.owner(t, y), np.ndarray)
    np.testing.assert_array_equal(jax.jit(p.range_of)(t), ranges)
    np.testing.assert_array_equal(jax.jit(p.group_of)(y), groups)


def test_what_is_not_split_has_one_owner():
    whole = Partition()
    assert (whole.num_groups, whole.num_ranges, whole.num_students) == (1, 1, 1)
    np.testing.assert_array_equal(whole.owner(np.ones(3), np.arange(3)), 0)
    np.testing.assert_array_equal(jax.jit(whole.owner)(jnp.ones(3), jnp.arange(3)), 0)
    np.testing.assert_array_equal(whole.labels(0, 3), [0, 1, 2])
    np.testing.assert_array_equal(whole.labels(0, 0), [0])
    assert whole.t_range(0, edm()) == (0.002, 80.0)
    by_time = make(num_groups=1, num_ranges=2)
    np.testing.assert_array_equal(by_time.owner(np.array([0.1, 0.9]), None), [0, 1])
    assert Partition.from_spec(None) == whole
    assert Partition.from_spec(whole.to_spec()) == whole


def test_a_time_on_a_border_has_the_same_owner_in_both_precisions():
    p = make(num_groups=1, num_ranges=10)
    t = np.arange(11) / 10
    expected = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(p.range_of(t), expected)
    np.testing.assert_array_equal(p.range_of(t.astype(np.float32)), expected)
    np.testing.assert_array_equal(jax.jit(p.range_of)(jnp.asarray(t)), expected)


@pytest.mark.parametrize("num_ranges", [2, 3, 4, 8])
def test_ranges_even_in_time_have_equal_shares_of_the_training_times(num_ranges):
    index = discrete(num_timesteps=24)
    p = make(process=index, num_groups=1, num_ranges=num_ranges)
    counts = np.bincount(p.range_of(np.arange(24)))
    np.testing.assert_array_equal(counts, 24 // num_ranges)
    u = (jnp.arange(960) + 0.5) / 960
    for process in (cosine(), edm()):
        p = make(process=process, num_groups=1, num_ranges=num_ranges)
        counts = np.bincount(p.range_of(process.time(u)))
        np.testing.assert_array_equal(counts, 960 // num_ranges)


@pytest.mark.parametrize("process", [cosine(), discrete(), edm()])
def test_ranges_even_in_logsnr(process):
    p = make(process=process, num_groups=1, num_ranges=4, spacing="logsnr")
    logsnr = process.logsnr(jnp.array(p.borders, jnp.float32))
    # An index moves logsnr by less than 1 where the borders lie.
    spans = np.diff(np.asarray(logsnr))
    np.testing.assert_allclose(spans, spans.mean(), atol=0.7)
    # They meet: the end of one range is the start of the next.
    ranges = [p.t_range(k, process) for k in range(4)]
    assert [lo for lo, _ in ranges[1:]] == [hi for _, hi in ranges[:-1]]
    assert ranges[0][0] == process.t_min and ranges[-1][1] == process.t_max


def test_kmeans_finds_planted_clusters():
    p = make(rule="kmeans", embeddings=EMBEDDINGS)
    found = p.group_of(np.arange(12))
    # The same clusters, numbered by their first class.
    np.testing.assert_array_equal(found, np.array([1, 2, 0, 3])[PLANTED])


def test_kmeans_is_balanced_where_clusters_are_not():
    # Nine at 0 and three at 10: the nine cannot stay together.
    x = np.append(np.zeros(9), np.full(3, 10.0))[:, None] + RNG.normal(size=(12, 1))
    owners = clusters.balanced_kmeans(x, 2)
    np.testing.assert_array_equal(np.bincount(owners), 6)
    # On a line the best halves are the lower and the upper one.
    assert x[owners == owners[-1]].min() > x[owners != owners[-1]].max()


@pytest.mark.parametrize("num", [64, 63])
def test_median_splits_route_new_vectors_and_survive_json(num):
    spread = np.array([5.0, 2.0, 0.5, 0.1])
    x = RNG.normal(size=(num, 4)) * spread + 3
    splits = clusters.median_splits(x, 4)
    sizes = np.bincount(splits.group_of(x))
    assert sizes.sum() == num and sizes.max() - sizes.min() <= 1
    again = clusters.MedianSplits.from_spec(json.loads(json.dumps(splits.to_spec())))
    new = RNG.normal(size=(4096, 4)) * spread + 3
    np.testing.assert_array_equal(again.group_of(new), splits.group_of(new))
    np.testing.assert_array_equal(again.group_of(new[:1]), splits.group_of(new)[:1])
    # By hand: the first bit is the side of PC 1, the second that of PC 2 in its half.
    axes, thresholds = np.array(splits.axes), np.array(splits.thresholds)
    place = (new - x.mean(0)) @ axes.T
    first = place[:, 0] > thresholds[0]
    second = place[:, 1] > thresholds[1 + first]
    np.testing.assert_array_equal(splits.group_of(new), 2 * first + second)
    # The axes are those of the largest spread.
    np.testing.assert_allclose(np.abs(axes[0, 0]), 1, atol=0.1)


def test_a_partition_by_pca_keeps_its_thresholds_and_routes_vectors():
    p = make(rule="pca", embeddings=EMBEDDINGS)
    spec = json.loads(json.dumps(p.to_spec()))
    assert spec == p.to_spec()
    again = Partition.from_spec(spec)
    np.testing.assert_array_equal(
        again.group_of_vectors(EMBEDDINGS), p.group_of(np.arange(12))
    )
    # A prompt near a class goes to the class' student.
    near = EMBEDDINGS + 1e-3 * RNG.normal(size=EMBEDDINGS.shape)
    np.testing.assert_array_equal(
        again.group_of_vectors(near), p.group_of(np.arange(12))
    )
    # Thresholds of another machine, and specs of before there were any, are the same.
    mean = spec["splits"]["mean"]
    nudged = {**spec["splits"], "mean": [np.nextafter(m, 9) for m in mean]}
    before = {k: spec[k] for k in ("groups", "borders")}
    for other in ({**spec, "splits": nudged}, before):
        assert partition.same_owners(again, Partition.from_spec(other))
    assert not partition.same_owners(again, make())
    assert not partition.same_owners(again, None) and partition.same_owners(None, None)
    fewer = {**spec, "splits": clusters.median_splits(EMBEDDINGS, 2).to_spec()}
    with pytest.raises(CheckpointError, match="splits: make 2 groups, and there are 4"):
        Partition.from_spec(fewer)
    with pytest.raises(
        ConfigError, match="routes labels alone, and those by rule='pca'"
    ):
        make().group_of_vectors(EMBEDDINGS)


def test_the_table_for_people():
    p = make(num_classes=6, num_groups=2, rule="table", table=(0, 0, 0, 1, 1, 1))
    assert p.table() == "student 0: 3 classes: 0-2\nstudent 1: 3 classes: 3-5"
    p = make(num_classes=4, num_groups=2, rule="table", table=(0, 1, 0, 1))
    p = p._replace(borders=(0.0, 0.5, 1.0))
    assert p.table().splitlines() == [
        "student 0: 2 classes: 0, 2; 0 <= t <= 0.5",
        "student 1: 2 classes: 0, 2; 0.5 < t <= 1",
        "student 2: 2 classes: 1, 3; 0 <= t <= 0.5",
        "student 3: 2 classes: 1, 3; 0.5 < t <= 1",
    ]
    assert Partition().table() == "student 0: everything"


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        (dict(num_groups=0), "num_groups=0: must be at least 1"),
        (dict(num_groups=5), r"num_groups=5: must divide .*choose one of \[1, 2, 3, 4"),
        (dict(num_classes=0), "num_groups=4: there are no classes.*num_ranges"),
        (dict(rule="best"), "rule='best': unknown; choose one of consecutive"),
        (dict(rule="kmeans"), r"rule='kmeans': needs embeddings of shape \(12, D\)"),
        (
            dict(rule="pca", embeddings=EMBEDDINGS[:5]),
            r"rule='pca': needs .* has an array \(5, 3\)",
        ),
        (
            dict(rule="kmeans", embeddings=EMBEDDINGS * np.nan),
            "embeddings have the shape .* must be finite",
        ),
        (
            dict(rule="pca", num_groups=3, embeddings=EMBEDDINGS),
            "num_groups=3: median splits make a power of two; take 2 or 4",
        ),
        (
            dict(rule="pca", embeddings=np.ones((12, 3))),
            "embeddings: 12 of them are equal",
        ),
        (dict(rule="table"), "table=.*: belongs to rule='table'"),
        (dict(table=(0,) * 12), "table=.*: belongs to rule='table'"),
        (dict(rule="table", table=(0, 1, 2, 3)), "table=.* has 4 entries"),
        (dict(rule="table", table=(0, 1, 2, 4) * 3), "table=.* must lie in 0 .. 3"),
        (dict(rule="table", table=(0, 0, 1, 2, 3, 3) * 2), r"groups have \[4, 2, 2, 4"),
        (dict(num_ranges=0), "num_ranges=0: must be at least 1"),
        (dict(num_ranges=2, spacing="log"), "spacing='log': unknown; choose one of"),
        (
            dict(process=discrete(num_timesteps=4), num_ranges=5),
            "num_ranges=5: a range would own no time",
        ),
    ],
)
def test_mistakes(keywords, text):
    with pytest.raises(ConfigError, match=text) as caught:
        make(**keywords)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"groups": [[0, 1], [1, 2]], "borders": []},
        {"groups": [[0], [1, 2]], "borders": []},
        {"groups": [], "borders": [0.0, 1.0, 0.5]},
        {"groups": [], "borders": [1.0]},
        {"groups": [["a"]], "borders": []},
    ],
)
def test_a_damaged_spec_is_refused(spec):
    with pytest.raises(CheckpointError, match="partition=.*not as it was written"):
        Partition.from_spec(spec)


def test_damaged_splits_are_refused():
    spec = clusters.median_splits(EMBEDDINGS, 4).to_spec()
    for wrong in (
        {},
        {**spec, "thresholds": [0.0]},
        {**spec, "thresholds": [0.0, 0.0, np.nan]},
        {**spec, "thresholds": [0.0, 0.0, 10**400]},
        {**spec, "axes": [1.0]},
    ):
        with pytest.raises(CheckpointError, match="splits=.*not as they were written"):
            clusters.MedianSplits.from_spec(wrong)
        whole = {"groups": [[0], [1], [2], [3]], "borders": [], "splits": wrong}
        with pytest.raises(CheckpointError) as caught:
            Partition.from_spec(whole)
        assert str(caught.value).count("not as") == 1
    with pytest.raises(ConfigError, match=r"shape \(2, 2\): must be \(N, 3\)"):
        clusters.median_splits(EMBEDDINGS, 4).group_of(np.ones((2, 2)))
