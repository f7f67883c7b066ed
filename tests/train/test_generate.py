"""Image i of a seed is the same image in any batch, of any owner, for one purpose."""

import dataclasses

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import pytest
import toy
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tolerance import REORDER

from kdiff_jax import interop, partition, rng, samplers
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import ConfigError, Interrupted, NumericsError
from kdiff_jax.pixels import to_uint8
from kdiff_jax.train import generate, parallel, signals
from kdiff_jax.train.generate import Generator

NET = toy.NETS["student"]
PARAMS = NET.init(jax.random.key(0))
CLASSES = toy.NUM_CLASSES
PARTITIONS = {
    name: partition.make(process=cosine(), num_classes=CLASSES, **keywords)
    for name, keywords in {
        "classes": dict(num_groups=5, rule="random"),
        "time": dict(num_ranges=4),
        "both": dict(num_groups=2, num_ranges=2),
        "neither": dict(),
    }.items()
}
ONE = one_student.stacked(PARAMS)
CALLS = (("ddim", 1), ("ddim", 8), ("heun", 3), ("dpm_solver", 4), ("ancestral", 4))
# In no order, and more of some than of others.
LABELS = np.array([7, 7, 0, 3, 9, 1, 1, 1, 4, 2, 8, 7, 5, 6], np.int32)


def as_they_are(x0):
    return x0


def generator(
    sampler=("ddim", 3), *, devices=1, net=NET, owners=partition.ONE, **keywords
):
    name, num_steps = sampler
    mesh = parallel.make_mesh(jax.devices()[:devices])
    made = samplers.make(name, process=cosine(), num_steps=num_steps)
    return Generator(net, made, mesh, owners, leave=as_they_are, **keywords)


def in_order(make, params, labels, *, batch_size=4, **keywords):
    """(z, x0) of every label."""
    shape = (len(labels), *make.net.image_shape)
    z, x0 = np.full(shape, np.nan), np.full(shape, np.nan, np.float32)
    keywords = dict(seed=5, batch_size=batch_size) | keywords
    for made in make.batches(params, labels=labels, **keywords):
        assert np.isnan(z[made.places]).all()  # each once
        z[made.places], x0[made.places] = made.z, made.x0
    return z, x0


def images(num, *, batch_size=4, first=0, **keywords):
    labels = generate.cycled_labels(num, CLASSES, first)
    make = generator(**keywords)
    return in_order(make, ONE, labels, batch_size=batch_size, first=first)


def stacked(num, change=0.0):
    """Students that are copies, or each a little further from the first."""
    return jax.tree.map(
        lambda x: jnp.stack([x * (1 + change * k) for k in range(num)]), PARAMS
    )


def test_a_picture_has_images_of_every_group():
    """With more classes than images, the first classes would be of one student."""
    owners = partition.make(process=cosine(), num_classes=1000, num_groups=4)
    shown = generate.shown_labels(20, 1000, owners)
    assert shown[:5].tolist() == [0, 250, 500, 750, 1]
    assert np.bincount(owners.group_of(shown)).tolist() == [5, 5, 5, 5]
    few = generate.shown_labels(5, CLASSES, PARTITIONS["classes"])
    assert sorted(PARTITIONS["classes"].group_of(few)) == [0, 1, 2, 3, 4]
    again = generate.shown_labels(13, CLASSES, PARTITIONS["classes"])
    assert sorted(again[:CLASSES]) == list(range(CLASSES)) and again[10] == again[0]
    for owners in (partition.ONE, PARTITIONS["time"]):
        assert generate.shown_labels(3, 2, owners).tolist() == [0, 1, 0]


def test_neither_batches_nor_devices_matter():
    z, x0 = images(10)
    for keywords in (dict(batch_size=10), dict(devices=4), dict(batch_size=3)):
        other_z, other = images(10, **keywords)
        np.testing.assert_array_equal(other_z, z)
        np.testing.assert_allclose(other, x0, **REORDER)
    np.testing.assert_array_equal(images(4, first=6)[0], z[6:])


def test_pairs_to_train_on_share_no_noise_with_samples():
    z, pairs = images(10)[0], images(10, purpose="pairs")[0]
    assert not np.isin(z, pairs).any()


def broken(value, *, where=lambda y: y == 9):
    """The network, but images of some labels are `value` at one pixel."""

    def apply(params, x_t, t, y):
        x0_hat = NET.apply(params, x_t, t, y)
        return x0_hat.at[:, 0, 0, 0].set(jnp.where(where(y), value, 0.5))

    return NET._replace(apply=apply)


@pytest.mark.parametrize(
    ("sampler", "value"),
    list(zip(CALLS, (np.nan, np.inf, -np.inf, np.nan, np.inf), strict=True)),
    ids=[name for name, _ in CALLS],
)
def test_nan_and_infinity_end_with_the_model_and_the_image(sampler, value):
    make = generator(sampler, net=broken(value), name="checkpoint=W/student")
    with pytest.raises(NumericsError) as caught:
        make.images(ONE, seed=0, labels=LABELS, batch_size=4, first=10)
    for words in ("checkpoint=W/student: image 14 is NaN or", sampler[0]):
        assert words in str(caught.value)
    make.images(ONE, seed=0, labels=LABELS[LABELS < 9], batch_size=4)


def test_an_infinite_evaluation_is_seen_through_a_sampler_that_clips():
    """Of the network at the largest times alone: what follows would hide it."""

    def apply(params, x_t, t, y):
        x0_hat = NET.apply(params, x_t, t, y)
        return jnp.where((t > 0.9)[:, None, None, None], jnp.inf, x0_hat)

    made = samplers.make("ddim", process=cosine(), num_steps=8, clip=True)
    mesh = parallel.make_mesh(jax.devices()[:4])
    make = Generator(NET._replace(apply=apply), made, mesh)
    with pytest.raises(NumericsError, match="model: image 0 is NaN"):
        make.images(ONE, seed=0, labels=LABELS, batch_size=4)


def test_the_students_that_make_nan_are_named():
    owners = PARTITIONS["classes"]
    make = generator(net=broken(np.nan), owners=owners)
    group = owners.group_of(np.array([9]))[0]
    with pytest.raises(NumericsError, match=f"students of group {group}: image 4 is"):
        in_order(make, stacked(5), LABELS)


def test_every_seed_of_the_range_is_another_set_of_images():
    seeds = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
    make, labels = generator(), LABELS[:2]
    firsts = [in_order(make, ONE, labels, seed=seed)[0] for seed in seeds]
    assert len({z.tobytes() for z in firsts}) == len(seeds)
    wanted = generate.noise(np.uint32(5), np.arange(2), NET.image_shape, "sample")[0]
    np.testing.assert_array_equal(in_order(make, ONE, labels, seed=5)[0], wanted)
    for seed in (-1, 2**32, 2**63, 2**64):
        with pytest.raises(ConfigError, match="seed=.*: give an integer from 0 to 42"):
            in_order(make, ONE, labels, seed=seed)
    for seed in (0.5, True, "1", None):
        with pytest.raises(ConfigError, match="seed=.*: give an integer"):
            rng.checked_seed(seed)
    with pytest.raises(ConfigError, match="image numbers end at 2147483647"):
        in_order(make, ONE, labels, first=2**31 - 1)


def test_pixels_are_made_by_the_program():
    make = generator()
    _, x0 = in_order(make, ONE, LABELS)
    pixels = dataclasses.replace(make, leave=to_uint8)
    (made,) = pixels.batches(ONE, seed=5, labels=LABELS, batch_size=14)
    assert made.x0.dtype == np.uint8
    # One level where the compiler rounds a product and a sum once instead of twice.
    np.testing.assert_allclose(made.x0, to_uint8(x0).astype(float), atol=1)
    images = pixels.images(ONE, seed=5, labels=LABELS, batch_size=14)
    np.testing.assert_array_equal(images[made.places], made.x0)


def test_a_signal_stops_between_batches():
    signals._asked.set()
    try:
        with pytest.raises(Interrupted):
            images(4)
    finally:
        signals.reset()


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampler", CALLS, ids=lambda call: f"{call[0]}_{call[1]}")
def test_copies_as_students_make_the_same_bits(sampler, devices):
    z, x0 = in_order(generator(sampler, devices=devices), ONE, LABELS)
    for name, owners in PARTITIONS.items():
        make = generator(sampler, devices=devices, owners=owners)
        got = in_order(make, stacked(owners.num_students), LABELS)
        np.testing.assert_array_equal(got[0], z, err_msg=name)
        np.testing.assert_array_equal(got[1], x0, err_msg=name)


@pytest.mark.parametrize("devices", [1, 4])
def test_every_image_is_the_one_that_its_owner_makes_alone(devices):
    owners = PARTITIONS["classes"]
    params = stacked(5, change=0.2)
    make = generator(devices=devices, owners=owners)
    z, x0 = in_order(make, params, LABELS)
    by_student = []
    for k in range(5):
        alone = jax.tree.map(lambda x, k=k: x[k : k + 1], params)
        by_student.append(in_order(generator(devices=devices), alone, LABELS))
    for i, owner in enumerate(owners.group_of(LABELS)):
        np.testing.assert_array_equal(z[i], by_student[owner][0][i])
        np.testing.assert_array_equal(x0[i], by_student[owner][1][i])
        assert np.abs(x0[i] - by_student[(owner + 1) % 5][1][i]).max() > 1e-3
    later = in_order(make, params, LABELS[6:], first=6)
    np.testing.assert_array_equal(later[0], z[6:])
    np.testing.assert_allclose(later[1], x0[6:], **REORDER)


@pytest.mark.parametrize("name", ["time", "both"])
def test_every_evaluation_is_of_the_owner_of_its_time(name):
    """Against one network that takes the weights of each example's own student."""
    owners = PARTITIONS[name]
    params = stacked(owners.num_students, change=0.2)

    def routed(params, x_t, t, y):
        def one(x_t, t, y, k):
            own = jax.tree.map(lambda x: x[k], params)
            return NET.apply(own, x_t[None], t[None], y[None])[0]

        return jax.vmap(one)(x_t, t, y, owners.owner(t, y))

    make = generator(("ddim", 8), net=NET._replace(apply=routed))
    _, expected = in_order(make, one_student.stacked(params), LABELS)
    _, x0 = in_order(generator(("ddim", 8), owners=owners), params, LABELS)
    np.testing.assert_allclose(x0, expected, **REORDER)


@pytest.mark.parametrize("name", ["classes", "both"])
def test_one_program_serves_all_groups(name):
    owners, traces = PARTITIONS[name], []

    def spy(*args):
        traces.append(1)
        return NET.apply(*args)

    make = generator(owners=owners, net=NET._replace(apply=spy))
    params = stacked(owners.num_students, change=0.2)
    in_order(make, params, LABELS[:1])
    before = len(traces)
    in_order(make, params, LABELS)
    assert len(traces) == before


@pytest.mark.parametrize("name", ["classes", "both"])
def test_a_state_that_is_split_over_devices_makes_the_same_images(name):
    owners = PARTITIONS[name]
    num = owners.num_students
    mesh = parallel.make_mesh(jax.devices()[:num], num_students=num)
    params = stacked(num, change=0.2)
    split = jax.device_put(params, NamedSharding(mesh, P("student")))
    sampler = samplers.make("ddim", process=cosine(), num_steps=3)
    make = Generator(NET, sampler, mesh, owners, leave=as_they_are)
    z, x0 = in_order(make, split, LABELS)
    host = in_order(make, jax.tree.map(np.asarray, params), LABELS)
    np.testing.assert_array_equal(z, host[0])
    np.testing.assert_array_equal(x0, host[1])


@pytest.mark.slow
def test_copies_of_a_u_net_make_the_same_bits():
    spec = {
        "network": {
            "name": "song_unet",
            "channels": 8,
            "channel_mult": [1, 1],
            "num_blocks": 1,
            "attn_resolutions": [4],
        },
        "precondition": {"name": "v"},
        "process": {"name": "cosine"},
        "image_shape": [8, 8, 1],
        "num_classes": CLASSES,
    }
    net, _ = interop.build(spec)
    params = drawn.params(net)
    whole = generator(("ddim", 4), net=net)
    _, x0 = in_order(whole, one_student.stacked(params), LABELS)
    owners = PARTITIONS["both"]
    copies = jax.tree.map(lambda x: np.stack([x] * owners.num_students), params)
    make = generator(("ddim", 4), net=net, owners=owners)
    np.testing.assert_array_equal(in_order(make, copies, LABELS)[1], x0)
