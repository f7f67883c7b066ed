"""The order of the data: a function of (seed, step, place), and of nothing else."""

import itertools

import numpy as np
import pytest

from kdiff_jax.data.batches import Batches, Indices, iterate, on_device, order
from kdiff_jax.data.images import from_array
from kdiff_jax.errors import ConfigError, DataError

GOLDEN = [6, 1, 0, 5, 3, 8, 7, 9, 2, 4, 7, 3, 5, 0, 1, 4, 6, 8, 9, 2]


def numbered(num, num_classes=10):
    """Images whose four pixels spell their number."""
    array = np.zeros((num, 2, 2, 1), np.uint8)
    array[:, 0, 0, 0], array[:, 0, 1, 0] = np.divmod(np.arange(num), 256)
    labels = np.arange(num, dtype=np.int32) % num_classes
    return from_array(array, labels, num_classes=num_classes, name="numbered")


def numbers(batch):
    pixels = batch["x0"].astype(np.int64)
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 1, 0]


@pytest.mark.parametrize("num", [1, 2, 3, 10, 257, 1797])
def test_every_epoch_is_a_permutation(num):
    stream = order(0, np.arange(3 * num), num).reshape(3, num)
    for epoch in stream:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num))
    if num > 10:
        assert not (stream[0] == stream[1]).all()
        assert not (stream[0] == np.arange(num)).all()


def test_the_order_is_the_same_in_every_release():
    """Else a resumed run would silently go on with another stream.

    Golden values of NumPy 2.4, which promises never to change them.
    """
    assert order(0, np.arange(20), 10).tolist() == GOLDEN


def test_seeds_give_different_orders():
    places = np.arange(100)
    assert not np.array_equal(order(1, places, 100), order(2, places, 100))
    # Epoch 1 of seed 0 must not be epoch 0 of seed 1.
    assert not np.array_equal(order(0, places + 100, 100), order(1, places, 100))


def test_a_place_can_be_asked_for_alone():
    stream = order(3, np.arange(50), 20)
    assert [int(order(3, np.array([p]), 20)[0]) for p in range(50)] == stream.tolist()


def test_of_two_views_one_is_drawn_in_each_epoch():
    images = numbered(30)
    both = np.concatenate([images.in_memory, 255 - images.in_memory])
    images = images._replace(
        read=lambda i: both[i], in_memory=both, num_views=2, name="both"
    )
    batches = Batches(images, seed=5, batch_size=30)
    found = np.stack([batches.indices(step) for step in range(4)])
    np.testing.assert_array_equal(np.sort(found % 30), [np.arange(30)] * 4)
    views = np.stack([epoch[np.argsort(epoch % 30)] // 30 for epoch in found])
    assert 40 < views.sum() < 80 and (views[0] != views[1]).any()
    # By random access, on the device, of one class, and on several hosts.
    data, index = on_device(images), Indices(batches)[2]["index"]
    for key, array in batches[2].items():
        np.testing.assert_array_equal(array, data[key][index])
        again = Batches(images, seed=5, batch_size=30)[2][key]
        np.testing.assert_array_equal(array, again)
    hosts = [
        Batches(images, seed=5, batch_size=30, num_hosts=2, host=h) for h in (0, 1)
    ]
    parts = np.concatenate([host.indices(2) for host in hosts])
    np.testing.assert_array_equal(parts, found[2])
    one = Batches(images, seed=5, batch_size=12, labels=[3])
    assert {*one[0]["y"].tolist()} == {3} and {*(one.indices(0) // 30)} == {0, 1}


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_hosts_together_see_the_batch_of_one_host(num_hosts):
    images = numbered(30)
    whole = Batches(images, seed=5, batch_size=8)
    hosts = [
        Batches(images, seed=5, batch_size=8, num_hosts=num_hosts, host=h)
        for h in range(num_hosts)
    ]
    for step in (0, 3, 4, 1000):  # step 3 straddles the end of an epoch
        parts = [host[step] for host in hosts]
        for key in ("x0", "y"):
            joined = np.concatenate([part[key] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][key])


@pytest.mark.parametrize("prefetch", [0, 2, 5])
def test_a_fresh_iterator_goes_on_where_the_other_stopped(prefetch):
    images = numbered(20)

    def take(start_step, num):
        batches = Batches(images, seed=7, batch_size=8)
        stream = iterate(batches, start_step=start_step, prefetch=prefetch)
        taken = [numbers(batch) for batch in itertools.islice(stream, num)]
        stream.close()
        return taken

    uninterrupted = take(0, 10)
    resumed = take(0, 2) + take(2, 8)  # step 2 straddles the end of the first epoch
    np.testing.assert_array_equal(resumed, uninterrupted)
    np.testing.assert_array_equal(np.sort(np.ravel(uninterrupted)[:20]), np.arange(20))


def test_pictures_and_labels_belong_together():
    batch = Batches(numbered(300), seed=0, batch_size=64)[3]
    np.testing.assert_array_equal(batch["y"], numbers(batch) % 10)
    assert batch["x0"].dtype == np.uint8 and batch["y"].dtype == np.int32


def test_indices_name_the_pictures_of_the_batch():
    batches = Batches(numbered(300), seed=0, batch_size=16, num_hosts=2, host=1)
    indices = batches.indices(40)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices, numbers(batches[40]))


def test_only_the_labels_asked_for():
    batches = Batches(numbered(100), seed=0, batch_size=10, labels=[2, 7])
    seen = np.concatenate([batches.indices(step) for step in range(2)])
    np.testing.assert_array_equal(np.sort(seen), np.sort(np.r_[2:100:10, 7:100:10]))
    assert set(batches[5]["y"].tolist()) <= {2, 7}


def test_a_damaged_example_stops_the_stream_with_its_own_error():
    def read(indices):
        raise DataError("a.png: not a readable image")

    images = numbered(10)._replace(read=read)
    stream = iterate(Batches(images, seed=0, batch_size=2))
    with pytest.raises(DataError, match="a.png: not a readable image"):
        next(stream)
    stream.close()


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(seed=-1), r"seed=-1: must be at least 0"),
        (dict(batch_size=0), r"batch_size=0: must be a positive multiple"),
        (dict(batch_size=6, num_hosts=4), r"batch_size=6: .* num_hosts=4"),
        (dict(labels=[10]), r"labels=\[10\]: no example .* up to 9"),
    ],
)
def test_wrong_numbers_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Batches(numbered(20), **{"seed": 0, "batch_size": 8, **wrong})


def test_a_host_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match=r"host=2: must be in 0 .. 1"):
        Batches(numbered(20), seed=0, batch_size=8, num_hosts=2, host=2)
