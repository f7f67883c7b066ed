"""Exported programs give what the model gives; what cannot be one is refused."""

import jax
import numpy as np
import prompted
import pytest
from jax import export

from kdiff_jax import exported, interop
from kdiff_jax.errors import ConfigError
from kdiff_jax.train import generate, parallel

ROUND = 2e-6  # sums of float32 in another order, of values about 1


def model(**changes):
    """A network of points in the plane with random weights; changes of its spec."""
    spec = interop.Spec.of(
        dict(
            network=dict(name="mlp", channels=8, num_blocks=1),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 2),
            sampler=dict(name="ddim", num_steps=1),
            num_classes=4,
        )
        | changes
    )
    net, process = interop.build(spec)
    num = spec.partition.num_students if spec.partition else 1
    keys = jax.random.split(jax.random.key(0), num)
    params = [jax.tree.map(lambda x: 2 * x + 0.1, net.init(key)) for key in keys]
    params = jax.tree.map(lambda *x: np.stack(x) if num > 1 else x[0], *params)
    return interop.Model(net, params, process, spec)


SHARED = dict(groups=[[0, 3], [1, 2]], borders=[0.0, 0.5, 1.0])


def generated(model, y, seed=3, sampler=None):
    """What `sample` makes of the model, as x0."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    about = dict(mesh=mesh, leave=lambda x0: x0)
    make = generate.of_model(model, sampler or model.sampler(), **about)
    shape = (len(y), *model.net.image_shape)
    x0 = np.zeros(shape, np.float32)
    for made in make.batches(model.students, seed=seed, labels=y, batch_size=len(y)):
        x0[made.places] = made.x0
    return x0


def called(program, *arguments):
    """What the program gives after it was bytes."""
    found = export.deserialize(bytearray(program.serialized()))
    assert found.platforms == ("cpu", "cuda", "tpu")
    first = [dict(program.weights)] if program.weights else []
    return np.asarray(found.call(*first, *arguments))


def test_images_of_a_seed_are_those_of_sample():
    one, y = model(), np.array([3, 0, 1, 3, 2], np.int32)
    make = exported.generator(one, one.sampler(), images="float32")
    assert str(make).startswith("(seed i32[], y i32[B]) -> f32[B, 1, 1, 2]")
    x0 = generated(one, y)
    np.testing.assert_allclose(called(make, 3, y), x0, atol=ROUND)
    # For any number of images, each of which is the same in all.
    np.testing.assert_allclose(called(make, 3, y[:2]), x0[:2], atol=ROUND)


def test_noise_may_be_given_and_pixels_are_uint8():
    one, y = model(), np.array([2, 1], np.int32)
    make = exported.generator(one, one.sampler(), start="noise")
    z, _ = generate.noise(3, np.arange(2, dtype=np.int32), (1, 1, 2), "sample")
    expected = one.net.space.to_pixels({}, generated(one, y))
    np.testing.assert_array_equal(called(make, z, y), expected)
    assert make.arguments == ("z", "y")


def test_a_sampler_that_draws_noise_takes_a_seed_beside_z():
    one, y = model(sampler=dict(name="renoise", num_steps=3)), np.arange(4)
    make = exported.generator(one, one.sampler(), start="noise", images="latents")
    z, _ = generate.noise(3, np.arange(4, dtype=np.int32), (1, 1, 2), "sample")
    assert make.arguments == ("z", "seed", "y")
    np.testing.assert_allclose(called(make, z, 3, y), generated(one, y), atol=ROUND)


@pytest.mark.parametrize("borders", [SHARED["borders"], []])
def test_students_are_routed_inside_the_program(borders):
    many = model(partition=SHARED | dict(borders=borders))
    y, sampler = np.array([3, 1, 0, 2, 2], np.int32), many.sampler(num_steps=4)
    make = exported.generator(many, sampler, images="float32")
    expected = generated(many, y, sampler=sampler)
    np.testing.assert_allclose(called(make, 3, y), expected, atol=ROUND)
    alone = generated(many.student(0), y) if not borders else expected
    assert borders or np.abs(alone - expected)[y == 1].max() > 0.01


@pytest.mark.parametrize("partition", [None, SHARED])
def test_a_denoiser_is_that_of_the_model(partition):
    one = model(partition=partition)
    x_t = np.random.default_rng(0).normal(size=(6, 1, 1, 2)).astype(np.float32)
    t = np.float32([0.1, 0.9, 0.5, 0.51, 1.0, 0.0])
    y = np.array([0, 1, 2, 3, 0, 1], np.int32)
    make = exported.denoiser(one)
    np.testing.assert_allclose(
        called(make, x_t, t, y), one.apply(x_t, t, y), atol=ROUND
    )


def test_tokens_of_prompts_are_read_by_the_encoder_inside(tmp_path):
    pipeline = prompted.pipeline(tmp_path / "pipeline")
    one = interop.load(prompted.model(tmp_path / "model", pipeline))
    ids = np.asarray(one.frozen["conditions"])[[5, 0, 8]].astype(np.int32)
    make = exported.generator(one, one.sampler(), images="float32", inside=False)
    assert str(make).startswith(f"(weights, seed i32[], y i32[B, {prompted.LENGTH}])")
    np.testing.assert_allclose(called(make, 3, ids), generated(one, ids), atol=ROUND)


@pytest.mark.parametrize(
    ("changes", "sampler", "words"),
    [
        (dict(partition=SHARED), {}, "choose one with --student=0 to 3"),
        ({}, dict(name="renoise", num_steps=2), "'renoise' draws noise .*=ddim"),
    ],
)
def test_what_cannot_be_an_onnx_file_is_refused(changes, sampler, words, monkeypatch):
    one = model(**changes)
    monkeypatch.setattr(exported.onnx_file, "_LIBRARIES", ())
    with pytest.raises(ConfigError, match=words):
        exported.onnx(one, one.sampler(**sampler), batch_size=2)
    monkeypatch.setattr(exported.onnx_file, "_LIBRARIES", ("no_such_library",))
    with pytest.raises(ConfigError, match="needs no_such_library; pip install"):
        exported.onnx(one, None, batch_size=2)


def test_what_cannot_be_a_program_is_refused(monkeypatch):
    one = model()
    with pytest.raises(
        ConfigError, match="--conditions=tokens: .* take --conditions=n"
    ):
        exported.denoiser(one, read="tokens")
    latents = model(space="latents", image_shape=(1, 1, 4))
    with pytest.raises(ConfigError, match="no autoencoder.*take --images=latents"):
        exported.generator(latents, latents.sampler())
    with pytest.raises(ConfigError, match="--student=K"):
        many = model(partition=SHARED, cond_dim=3)
        exported.generator(many, many.sampler(), read="vectors")
    monkeypatch.setattr(exported.stablehlo, "MAX_INSIDE", 100)
    assert exported.denoiser(one).weights
    with pytest.raises(ConfigError, match="take --weights=beside"):
        exported.denoiser(one, inside=True)
