"""Which labels, images and pairs each student and each term of a loss has seen.

Song et al. 2024: conditions of distribution matching are the student's own, pairs to
regress on are all of them, real images of the discriminator are its own.
"""

import collections
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from kdiff_jax import methods, rng
from kdiff_jax.build import Stage
from kdiff_jax.data.images import from_array
from kdiff_jax.diffusion import partition as partitions
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.stages import Job
from kdiff_jax.stages.students import Students
from kdiff_jax.train import parallel
from kdiff_jax.train.step import Optim, init_state, make_train_step

PARTITION = partitions.make(process=cosine(), num_classes=10, num_groups=5)
LABELS = np.arange(200, dtype=np.int32) % 10
# The first pixel of an image says which one it is.
IMAGES = np.zeros((200, 4, 4, 1), np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(200)


def students():
    mesh = parallel.student_mesh(parallel.make_mesh(jax.devices()[:1]), 5)
    return Students(PARTITION, tuple(range(5)), mesh)


def job_of(stage):
    config = {"seed": 0, "model": {"num_classes": 10}, "partition": {"only": None}}
    return Job(
        config, [stage], pathlib.Path("."), parallel.make_mesh(jax.devices()[:1])
    )


def seen_images(**section):
    """[student] -> how often it was given each image, over 100 batches of 8."""
    stage = Stage("student", "train", {"partition": True, **section}, {})
    source = from_array(IMAGES, LABELS, num_classes=10, name="counted")
    method = methods.make("dmd", nets=toy.NETS, process=cosine())
    frozen, batches = students().feed(job_of(stage), stage, method, source, {}, 8)
    counts = np.zeros((5, 200), int)
    for step in range(100):
        for k, part in enumerate(batches[step]):
            assert part["index"].shape == (1, 8)
            np.add.at(counts[k], part["index"][0], 1)
    # What the device looks up are the whole set's images.
    np.testing.assert_array_equal(frozen["data"]["x0"][:, 0, 0, 0], np.arange(200))
    np.testing.assert_array_equal(frozen["data"]["y"], LABELS)
    return counts


def own(k):
    return LABELS // 2 == k


def test_real_images_are_those_of_the_students_classes_and_all_of_these():
    for k, count in enumerate(seen_images()):
        assert (count[~own(k)] == 0).all()
        # 800 draws in epochs of its own 40 images: each exactly 20 times.
        assert (count[own(k)] == 20).all()


def test_pairs_are_all_of_them_whatever_the_classes():
    counts = seen_images(pairs="pairs")
    assert (counts == 4).all()  # 800 draws in epochs of 200


def test_pairs_are_filtered_where_they_are_all_that_there_is():
    """A Denoising Student asks for no labels beside those of its pairs."""
    stage = Stage("student", "train", {"partition": True, "pairs": "pairs"}, {})
    source = from_array(IMAGES, LABELS, num_classes=10, name="counted")
    method = methods.make("denoising_student", nets=toy.NETS, process=cosine())
    _, batches = students().feed(job_of(stage), stage, method, source, {}, 8)
    for k, part in enumerate(batches[0]):
        assert own(k)[part["index"]].all()


def test_students_see_the_pairs_in_orders_of_their_own():
    stage = Stage("student", "train", {"partition": True, "pairs": "pairs"}, {})
    source = from_array(IMAGES, LABELS, num_classes=10, name="counted")
    method = methods.make("dmd", nets=toy.NETS, process=cosine())
    _, batches = students().feed(job_of(stage), stage, method, source, {}, 8)
    orders = [part["index"].ravel().tolist() for part in batches[0]]
    assert len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize("filtered", [True, False])
def test_a_recipe_may_say_otherwise(filtered):
    others = {True: dict(pairs="pairs"), False: {}}[filtered]
    counts = seen_images(filter_data=filtered, **others)
    for k, count in enumerate(counts):
        assert (count[~own(k)] == 0).all() == filtered


def labels_by_call(name, k, **keywords):
    """{network: labels it was asked for} in 4 steps of student k."""
    seen = collections.defaultdict(set)

    def record(role, y):
        seen[role].update(np.asarray(y).ravel().tolist())

    def spied(role, net):
        def call(function, role):
            def wrapped(params, x_t, t, y, **more):
                jax.debug.callback(lambda y: record(role, y), y)
                return function(params, x_t, t, y, **more)

            return wrapped

        return net._replace(
            apply=call(net.apply, role), encode=call(net.encode, f"{role}.encode")
        )

    nets = {role: spied(role, net) for role, net in toy.NETS.items()}
    method = methods.make(name, nets=nets, process=cosine(), **keywords)
    sgd = Optim(optax.identity(), lambda step, n: 1e-3, lambda step: jnp.float32(0.9))
    optim = {role: sgd for role in method.nets}
    frozen = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
    state = init_state(method, optim, frozen, jax.random.key(0))
    settings = students().settings(
        cosine(), {"num_train_steps": jnp.int32(9), **method.settings}
    )
    settings = jax.tree.map(lambda x: jnp.asarray(x[k]), settings)
    step = jax.jit(make_train_step(method, optim, method.phases))
    for i in range(4):
        batch = toy.batch(i, size=32)
        # What the data gives: pairs of all classes, real images of the student's own.
        if "z" not in method.batch_keys:
            batch["y"] = 2 * k + batch["y"] % 2
        keys = rng.example_keys(jax.random.key(1), i, jnp.arange(32))
        state, _ = step(state, frozen, settings, batch, keys)
    jax.effects_barrier()
    return seen


@pytest.mark.parametrize("k", [0, 3])
def test_dmd_matches_on_own_labels_and_regresses_on_all(k):
    seen = labels_by_call("dmd", k)
    mine = {2 * k, 2 * k + 1}
    # The scores are asked by distribution matching alone, the student by the pairs too.
    assert seen["teacher"] == mine
    assert seen["student"] == set(range(10))


@pytest.mark.parametrize("name", ["dmd2", "sid"])
def test_methods_without_pairs_know_no_other_labels(name):
    seen = labels_by_call(name, 1)
    assert seen and all(labels == {2, 3} for labels in seen.values()), dict(seen)


def test_the_discriminator_reads_images_of_own_labels():
    seen = labels_by_call("dmd2", 4, gan_weight=1.0)
    assert seen["teacher.encode"] == {8, 9}
