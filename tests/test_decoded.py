"""Losses of what latents decode to, and gradients by the transpose of the decoder."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdiff_jax import decoded, domain, methods, rng
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.discriminators import extractors
from kdiff_jax.features import lpips
from kdiff_jax.method import Context
from kdiff_jax.methods import gdd
from kdiff_jax.types import Keys

# A frozen decoder that mixes all entries: x = x0 M, with 2x2 pixels of a channel more.
RANDOM = np.random.default_rng(0)
DECODER = RANDOM.normal(0, 0.3, (16, 12)).astype(np.float32)
PIXELS = (2, 2, 3)
ROLE = "decoder"


def decode(frozen, x0):
    return (x0.reshape(len(x0), -1) @ frozen[ROLE]).reshape(len(x0), *PIXELS)


def with_space(net, shape=PIXELS, to_images=decode):
    """The network, whose x0 stand for images."""
    space = domain.pixel_space(net.image_shape)
    return net._replace(
        own_space=space._replace(pixel_shape=shape, to_images=to_images)
    )


FROZEN = {
    ROLE: jnp.asarray(DECODER),
    "teacher": toy.NETS["teacher"].init(jax.random.key(7)),
}
NET = with_space(toy.NETS["student"])
KEYS = rng.example_keys(jax.random.key(1), 0, jnp.arange(8))


def mse(a, b):
    return ((a - b) ** 2).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("batch_size", [0, 3, 4])
def test_the_gradient_is_the_transpose_of_the_decoder_s(batch_size):
    x0_hat, x0 = jnp.asarray(RANDOM.normal(size=(2, 8, 4, 4, 1)), jnp.float32)

    def loss(x0_hat):
        found = decoded.distance(NET, FROZEN, mse, x0_hat, x0, batch_size=batch_size)
        return found.sum(), found

    (_, found), g = jax.jit(jax.value_and_grad(loss, has_aux=True))(x0_hat)
    a, b = (np.asarray(x).reshape(8, 16) @ DECODER for x in (x0_hat, x0))
    np.testing.assert_allclose(found, ((a - b) ** 2).mean(axis=1), rtol=1e-5)
    wanted = (2 * (a - b) / 12) @ DECODER.T
    np.testing.assert_allclose(g.reshape(8, 16), wanted, rtol=1e-4, atol=1e-6)
    images = decoded.images(NET, FROZEN, x0, batch_size=batch_size)
    np.testing.assert_allclose(images.reshape(8, 12), b, rtol=1e-5, atol=1e-6)
    identity = with_space(toy.NETS["student"], toy.SHAPE, lambda frozen, x0: x0)
    found = decoded.distance(identity, {}, mse, x0_hat, x0, batch_size=batch_size)
    np.testing.assert_allclose(found, mse(x0_hat, x0), rtol=1e-6)


def test_what_the_decoder_computes_is_not_kept_and_pixels_are_taken_as_they_are():
    x0 = jnp.ones((8, 4, 4, 1))

    def traced(net):
        apart = lambda x: decoded.distance(net, FROZEN, mse, x, x0).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(apart))(x0))

    assert "prevent_cse" in traced(NET)  # of jax.checkpoint
    assert "prevent_cse" not in traced(toy.NETS["student"])
    assert decoded.images(toy.NETS["student"], {}, x0) is x0


def losses(name, net, frozen, batch, phases, **keywords):
    """{phase: (value, gradients)} of some phases of a method, and the method."""
    nets = {"student": net, "teacher": toy.NETS["teacher"]}
    method = methods.make(name, nets=nets, process=cosine(), **keywords)
    keys = jax.random.split(jax.random.key(0), len(method.nets))
    params = {
        role: one.init(key)
        for (role, one), key in zip(method.nets.items(), keys, strict=True)
    }
    own = [phase for phase in method.phases if phase.name in phases]

    @jax.jit
    def run(params):
        context = Context(params, {}, frozen, method.carry, batch, KEYS, toy.SHARE)
        context = context._replace(batch=method.prepare(context))
        found = {}
        for phase in own:
            of = {role: params[role] for role in phase.trains}
            (value, _), grads = jax.value_and_grad(phase.loss, has_aux=True)(
                of, context
            )
            found[phase.name] = value, grads
        return found

    return run(params), method


def same(found, wanted):
    for name in wanted:
        for ours, theirs in zip(
            jax.tree.leaves(found[name]), jax.tree.leaves(wanted[name]), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


def of_decoded(net):
    """The network that makes images in place of their latents."""

    def apply(*args, **keywords):
        return decode(FROZEN, net.apply(*args, **keywords))

    return net._replace(apply=apply)


def test_denoising_student_on_images_is_that_of_a_student_that_decodes():
    batch, name = toy.batch(0), "denoising_student"
    found, _ = losses(
        name, NET, FROZEN, batch, ["kd"], loss="decoded_l1", decode_batch=3
    )
    student = of_decoded(toy.NETS["student"])
    pixels = batch | {"x0": decode(FROZEN, batch["x0"])}
    wanted, _ = losses(name, student, FROZEN, pixels, ["kd"], loss="l1")
    same(found, wanted)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found["kd"][1])) > 0.01


@pytest.mark.parametrize(
    ("name", "option", "phase"),
    [("dmd", "distance", "student"), ("denoising_student", "loss", "kd")],
)
def test_lpips_sees_images(name, option, phase, monkeypatch):
    """LPIPS has tests of its own; here it is a distance of images."""
    seen = []

    def distance(params, a, b, dtype):
        seen.append((params, a.shape, dtype))
        return mse(a, b)

    monkeypatch.setattr(lpips, "distance", distance)
    files = dict(lpips_weights="a", lpips_heads="b")  # which nothing reads here
    frozen, batch = FROZEN | {"lpips": ()}, toy.batch(0)
    given = NET, frozen, batch, [phase]
    found, method = losses(name, *given, **{option: "lpips"}, **files)
    assert {*method.pretrained} == {"lpips"} and "lpips" in method.frozen
    assert seen[-1] == ((), (8, *PIXELS), "float32")
    wanted, _ = losses(name, *given, **{option: "decoded_l2"})
    if name == "denoising_student":  # sums over pixels
        wanted = jax.tree.map(lambda x: x / 12, wanted)
    same(found, wanted)


@pytest.mark.slow  # two discriminators to compile, each in three phases
def test_a_discriminator_on_classifiers_sees_images(monkeypatch):
    """Beside the teacher's encoder, which reads x0; the penalty is on both."""
    weights = jnp.asarray(RANDOM.normal(size=(3, 4)), jnp.float32)

    def features(params, images, precision):
        assert images.shape[1:] == PIXELS and precision == "float32"
        return [jnp.tanh(images @ params)]

    network = types.ModuleType("network")
    network.features, network.load = features, lambda file: weights
    network.shapes = lambda: jax.ShapeDtypeStruct((3, 4), jnp.float32)
    monkeypatch.setattr(extractors.feature_networks, "network", lambda *_: network)
    frozen, batch = FROZEN | {"resnet56": weights}, toy.batch(0)
    options = dict(features=("resnet56",), feature_files=("x",), width=2, r1_every=1)
    options |= dict(r1_weight=10.0, augment=("color",))
    phases = ["student", "disc", "r1"]
    found, _ = losses("gdd", NET, frozen, batch, phases, decode_batch=4, **options)
    # A student on images, from noise of the latents' shape: the same by construction.
    student = of_decoded(toy.NETS["student"])._replace(image_shape=PIXELS)
    monkeypatch.setattr(
        gdd.rng, "normal", lambda keys, name, shape: _noise(keys, name, shape)
    )
    pixels = batch | {"x0": decode(FROZEN, batch["x0"])}
    wanted, _ = losses("gdd", student, frozen, pixels, phases, **options)
    same(found, wanted)


NORMAL = rng.normal


def _noise(keys: Keys, name: str, shape):
    """Noise of latents, whatever the shape of the images."""
    return NORMAL(keys, name, toy.SHAPE if name == "z" else shape)
