"""Which labels, images and pairs each student and each term of a loss has seen.

Song et al. 2024: conditions of distribution matching are the student's own, pairs to
regress on are all of them, real images of the discriminator are its own.
"""

import collections
import pathlib

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import optax
import pytest
import toy

from kdiff_jax import methods, rng
from kdiff_jax import partition as partitions
from kdiff_jax.build import sections
from kdiff_jax.data.images import from_array
from kdiff_jax.data.pairs import Pairs
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.stages.students import Students
from kdiff_jax.train import inputs, parallel
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import make_train_step

PARTITION = partitions.make(process=cosine(), num_classes=10, num_groups=5)
BATCH_SIZE, NUM_STEPS = 32, 4
LABELS = np.arange(200, dtype=np.int32) % 10
# The first pixel of an image says which one it is.
IMAGES = np.zeros((200, 4, 4, 1), np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(200)
SOURCE = from_array(IMAGES, LABELS, num_classes=10, name="counted")
Z = np.zeros(IMAGES.shape, np.float16)
PAIRS = Pairs(
    lambda indices: (Z[indices], IMAGES[indices], LABELS[indices]),
    labels=LABELS,
    num=200,
    shape=IMAGES.shape[1:],
    name="counted",
)


def students():
    mesh = parallel.student_mesh(parallel.make_mesh(jax.devices()[:1]), 5)
    return Students(PARTITION, tuple(range(5)), mesh)


def job_of(stage):
    mesh = parallel.make_mesh(jax.devices()[:1])
    about = dict(spec=jobs.SPEC.replace(num_classes=10), partition=sections.Partition())
    return jobs.job([stage], pathlib.Path("."), mesh, **about)


def seen_images(**section):
    """[student] -> how often it was given each image, over 100 batches of 8."""
    stage = jobs.training(partition=True, **section)
    method = methods.make("dmd", nets=toy.NETS, process=cosine())
    frozen, batches = students().feed(job_of(stage), stage, method, SOURCE, 8)
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
    stage = jobs.training(partition=True, pairs="pairs")
    method = methods.make("denoising_student", nets=toy.NETS, process=cosine())
    _, batches = students().feed(job_of(stage), stage, method, SOURCE, 8)
    for k, part in enumerate(batches[0]):
        assert own(k)[part["index"]].all()


def test_students_see_the_pairs_in_orders_of_their_own():
    stage = jobs.training(partition=True, pairs="pairs")
    method = methods.make("dmd", nets=toy.NETS, process=cosine())
    _, batches = students().feed(job_of(stage), stage, method, SOURCE, 8)
    orders = [part["index"].ravel().tolist() for part in batches[0]]
    assert len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize("filtered", [True, False])
def test_a_recipe_may_say_otherwise(filtered):
    others = {True: dict(pairs="pairs"), False: {}}[filtered]
    counts = seen_images(filter_data=filtered, **others)
    for k, count in enumerate(counts):
        assert (count[~own(k)] == 0).all() == filtered


def fed(k, method, frozen):
    """(frozen, batches) of student k, as the stage of all students is fed."""
    source, pairs = SOURCE, ""
    if "z" in method.batch_keys:
        source, pairs = PAIRS, "pairs"
    stage = jobs.training(partition=True, pairs=pairs)
    data, batches = students().feed(job_of(stage), stage, method, source, BATCH_SIZE)
    # The one device trains them all, one in each round.
    rounds = (batches[step][k] for step in range(NUM_STEPS))
    return {**frozen, **data}, [jax.tree.map(lambda x: x[0], part) for part in rounds]


def labels_by_call(name, k, **keywords):
    """{network: labels it was asked for} while student k trains."""
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
    sgd = Optim(optax.identity(), lambda step, n: 1e-3, toy.EMAS)
    optim = {role: sgd for role in method.nets}
    frozen = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
    state = init_state(method, optim, frozen, jax.random.key(0))
    numbers = students().numbers(cosine(), method, toy.numbers(method, NUM_STEPS))
    numbers = jax.tree.map(lambda x: jnp.asarray(x[k]), numbers)
    step, read = make_train_step(method, optim, method.phases), inputs.make()

    @jax.jit
    def program(state, frozen, numbers, batch, keys):
        return step(state, frozen, numbers, read(frozen, batch, keys), keys)

    frozen, batches = fed(k, method, frozen)
    for i, batch in enumerate(batches):
        keys = rng.example_keys(jax.random.key(1), i, jnp.arange(BATCH_SIZE))
        state, _ = program(state, frozen, numbers, batch, keys)
    jax.effects_barrier()
    return seen


@pytest.mark.parametrize("k", [0, 3])
def test_dmd_matches_on_own_labels_and_regresses_on_all(k):
    seen = labels_by_call("dmd", k)
    mine = {2 * k, 2 * k + 1}
    # The scores are asked by distribution matching alone, the student by the pairs too.
    assert seen["teacher"] == mine
    assert seen["student"] == set(range(10))


# What each method asks for labels, discriminators on the teacher's encoder too.
ASKED = {
    "dmd2": {"student", "teacher", "teacher.encode"},
    "sid": {"student", "teacher"},
    "gdd": {"student", "teacher.encode"},  # the labels are those of the real images
    "denoising_student": {"student"},  # its pairs are all that it has
}


@pytest.mark.parametrize("name", ASKED)
def test_methods_without_pairs_beside_know_no_other_labels(name):
    small = dict(width=2) if name == "gdd" else {}
    assert labels_by_call(name, 1, **small) == {role: {2, 3} for role in ASKED[name]}
