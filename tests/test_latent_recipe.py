"""Images in another space than pixels: one way in, one way out, for every stage."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest
from PIL import Image

from kdiff_jax import domain, interop, pixels, recipe
from kdiff_jax.data import mixture, pairs
from kdiff_jax.report import grid
from kdiff_jax.train import generate, inputs, measure, parallel

ONE = jax.devices()[:1]
# An isometry of the plane into three dimensions, so that its transpose decodes.
ENCODER = np.linalg.qr(np.array([[1.0, 2.0], [2.0, -1.0], [0.5, 1.0]]))[0].T
ENCODER = ENCODER.astype(np.float32)


def toy_space(shape) -> domain.Space:
    """x0 = ENCODER^T point, of three numbers."""
    assert shape == (1, 1, 3)
    return domain.Space(
        shape,
        (1, 1, 2),
        from_data=lambda frozen, raw: pixels.to_float(raw) @ ENCODER,
        to_images=lambda frozen, x0: x0 @ ENCODER.T,
        to_kept=lambda x0: x0.astype(jnp.float16),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A teacher, its pairs, a student of them, and their measures."""
    from configs import common

    folder, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    patch.setitem(domain.SPACES, "toy", toy_space)
    short = dict(num_steps=40, batch_size=64)
    stages = dict(
        teacher=dict(method=dict(name="denoise"), optim=points.OPTIM, train=short),
        pairs=common.tiny_pairs(),
        student=dict(
            method=dict(name="denoising_student"),
            optim=points.OPTIM,
            pairs="pairs",
            train=dict(num_steps=2, batch_size=8),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "student")),
    )
    found = points.sections()
    found["model"] |= dict(space="toy", image_shape=(1, 1, 3))
    config = common.config(
        "latent", order=tuple(stages), stages=stages, train={}, **found
    )
    recipe.run(config, folder, devices=ONE)
    yield folder
    patch.undo()


def test_data_come_in_and_go_out_once():
    space = toy_space((1, 1, 3))
    raw = mixture.load(path=None, split="train", size=None, num_images=16).read(
        np.arange(16)
    )
    keys = jax.random.split(jax.random.key(0), 16)
    x0 = inputs.make(space=space)({}, {"x0": raw}, keys)["x0"]
    np.testing.assert_allclose(x0, pixels.to_float(raw) @ ENCODER, atol=1e-6)
    np.testing.assert_array_equal(space.to_pixels({}, x0), raw)
    # What pairs keep is in the space already.
    kept = inputs.make(space=space)({}, {"x0": space.to_kept(x0)}, keys)["x0"]
    assert kept.dtype == jnp.float32
    np.testing.assert_allclose(kept, x0, atol=1e-3)


def test_pairs_are_kept_in_the_space(workdir):
    found = pairs.open_pairs(workdir / "pairs/train")
    z, x0, y = found.read(np.arange(24))
    assert x0.dtype == np.float16 and x0.shape == (24, 1, 1, 3)
    model = interop.load(workdir / "teacher")
    mesh = parallel.make_mesh(ONE)
    again = generate.of_model(
        model, model.sampler(), mesh=mesh, purpose="pairs", leave=lambda x0: x0
    )
    made = next(again.batches(model.students, seed=0, labels=y, batch_size=24))
    np.testing.assert_allclose(made.x0, x0, atol=1e-3)
    np.testing.assert_allclose(made.z, z, atol=2e-3)


def test_images_are_decoded(workdir):
    model = interop.load(workdir / "student")
    make = generate.of_model(model, model.sampler(), mesh=parallel.make_mesh(ONE))
    asked = dict(seed=0, labels=np.arange(20, dtype=np.int32) % 8, batch_size=20)
    images = make.images(model.students, **asked)
    assert images.shape == (20, 1, 1, 2) and images.dtype == np.uint8
    shown = [path for path in (workdir / "student/samples").glob("*.png")]
    assert shown and Image.open(shown[0]).size == _size(workdir, images)
    raw = generate.of_model(model, model.sampler(), mesh=make.mesh, leave=lambda x0: x0)
    (made,) = raw.batches(model.students, **asked)
    expected = np.asarray(pixels.to_uint8(made.x0 @ ENCODER.T)).astype(int)
    np.testing.assert_allclose(images, expected, atol=1)


def _size(workdir, images):
    """That of a picture of a teacher's and a student's images."""
    rows = [("teacher, 4 evaluations", images), ("student, 4 evaluations", images)]
    return grid.side_by_side(rows).shape[1::-1]


def test_the_measures_are_of_pixels(workdir):
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    assert np.isfinite([list(row["metrics"].values()) for row in rows]).all()
    with np.load(workdir / "evaluate/reference_pixels.npz") as stats:
        assert stats["mu"].shape == (2,)
    model = interop.load(workdir / "teacher")
    assert model.image_shape == (1, 1, 3) and model.net.space.pixel_shape == (1, 1, 2)
    assert measure.macs(model.net) > 0
