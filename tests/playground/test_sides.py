"""A demo's images are those of `sample`; between two seeds lies noise as strong."""

import drawn
import jax
import numpy as np
import points
import prompted
import pytest

from kdiff_jax import interop, partition
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import ConfigError
from kdiff_jax.playground import side_by_side
from kdiff_jax.playground.side_by_side import Shown, Side, Sides, spherical
from kdiff_jax.report.grid import MIN_TILE
from kdiff_jax.train import generate, parallel

MODEL = points.sections()["model"]
OWNERS = partition.make(
    process=cosine(), num_classes=8, num_groups=4, num_ranges=2, rule="consecutive"
)


def save(path, seed, steps, owners=partition.ONE):
    sampler = dict(name="ddim", num_steps=steps)
    spec = interop.Spec.of(MODEL | dict(sampler=sampler))
    params = drawn.params(interop.build(spec)[0], seed)
    if owners.num_students > 1:
        spec = spec.replace(partition=owners)
        scales = 1 + np.arange(owners.num_students, dtype=np.float32)
        params = jax.tree.map(lambda x: np.stack([x * s for s in scales]), params)
    return interop.save(path, params=params, spec=spec)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(folder / "teacher", 0, 4)
    save(folder / "student", 1, 1)
    save(folder / "several", 2, 2, OWNERS)
    return folder


@pytest.fixture(scope="module")
def sides(folders):
    made = [Side(name, folders / name) for name in side_by_side.TITLES]
    return Sides(*made)


def sampled(path, seed, label):
    """The image that `sample` makes."""
    model = interop.load(path)
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, model.sampler(), mesh=mesh)
    labels = np.array([label], np.int32)
    return make.images(model.students, seed=seed, labels=labels, batch_size=1)[0]


def test_images_are_those_of_sample(folders, sides):
    shown = sides.show(3, seed=5)
    assert [one.title for one in shown] == ["student", "teacher"]
    assert [one.num_steps for one in shown] == [1, 4]
    for one in shown:
        assert np.array_equal(one.image, sampled(folders / one.title, 5, 3))
        assert one.milliseconds > 0 and one.owner == ""


def test_the_ends_of_an_interpolation_are_both_seeds(sides):
    def images(**how):
        return [one.image.tolist() for one in sides.show(2, **how)]

    both = dict(seed=5, other_seed=6)
    assert images(**both, mix=0.0) == images(seed=5)
    assert images(**both, mix=1.0) == images(seed=6) != images(seed=5)
    assert images(**both, mix=0.4) not in (images(seed=5), images(seed=6))


def test_noise_between_two_seeds_is_as_strong():
    a, b = np.random.default_rng(0).standard_normal((2, 1, 8, 8, 3)).astype("float32")
    assert np.array_equal(spherical(a, b, 0.0), a)
    assert np.array_equal(spherical(a, b, 1.0), b)
    middle = spherical(a, b, 0.5)
    assert middle.dtype == np.float32 and 0.93 < middle.std() < 1.07
    assert (a / 2 + b / 2).std() < 0.8
    by_hand = (a.astype(float) + b) / 2
    angle = np.arccos(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose(middle, by_hand / np.cos(angle / 2), rtol=1e-4)
    assert np.array_equal(spherical(a, a, 0.3), a)


def test_several_students_say_who_has_answered(folders):
    student = Side("student", folders / "several", num_steps=4)
    assert student.sampler.nfe == 4
    (shown,) = Sides(student).show(5, seed=5)
    who = "students 4 to 5, one range of time each, of 8 (classes 4, 5)"
    assert shown.owner == who and who in shown.line()
    model = interop.load(folders / "several")
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, model.sampler(num_steps=4), mesh=mesh)
    asked = dict(seed=5, labels=np.array([5], np.int32), batch_size=1)
    assert np.array_equal(shown.image, make.images(model.students, **asked)[0])


def test_prompts_are_read(tmp_path):
    pipeline = prompted.pipeline(tmp_path / "pipeline")
    side = Side("student", prompted.model(tmp_path / "model", pipeline))
    asked = [side.asked(text) for text in ("big ab", "red gh")]
    assert side.reads_prompts and not np.array_equal(asked[0].cond, asked[1].cond)
    (shown,) = Sides(side).show("red gh", seed=3)
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(side.model, side.sampler, mesh=mesh)
    how = dict(seed=3, labels=asked[1], batch_size=1)
    assert np.array_equal(shown.image, make.images(side.model.students, **how)[0])


@pytest.mark.parametrize(
    ("asked", "how", "message"),
    [
        (8, dict(seed=0), "class=8: the student has 8 classes, 0 to 7"),
        ("a dog", dict(seed=0), "class=a dog: the student has 8 classes"),
        (0, dict(seed=-1), "seed=-1"),
        (0, dict(seed=0, other_seed=2**40, mix=0.5), "seed=1099511627776"),
        (0, dict(seed=0, other_seed=1, mix=1.5), r"mix=1.5: must be in \[0, 1\]"),
    ],
)
def test_what_cannot_be_shown(sides, asked, how, message):
    with pytest.raises(ConfigError, match=message):
        sides.show(asked, **how)


def test_a_teacher_of_other_images_is_refused(sides, folders, tmp_path):
    pipeline = prompted.pipeline(tmp_path / "pipeline")
    other = Side("teacher", prompted.model(tmp_path / "model", pipeline))
    with pytest.raises(ConfigError, match="--teacher: its image_shape is .* leave it"):
        Sides(sides.student, other)


def test_what_stands_below():
    image = np.zeros((2, 2, 1), np.uint8)
    both = [Shown("student", image, 2.0, 1, ""), Shown("teacher", image, 70.0, 64, "")]
    assert side_by_side.lines(both) == [
        "student: 1 step, 2 ms",
        "teacher: 64 evaluations, 70 ms (35 times the student's)",
    ]


@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 48, 3), (300, 400, 3)])
def test_small_images_are_enlarged(shape):
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    found = side_by_side.picture(image)
    factor = found.shape[0] // shape[0]
    assert min(found.shape[:2]) >= 256 and found.shape[2] == 3
    assert np.array_equal(found[::factor, ::factor, :1], image[..., :1])


def test_a_point_is_drawn():
    found = side_by_side.picture(np.full((1, 1, 2), 128, np.uint8))
    assert found.shape == (MIN_TILE, MIN_TILE, 3) and (found == 0).any()
