"""`precision` in what XLA is given: the convolutions of whole steps, in StableHLO."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
import toy
from networks import tiny_networks as tiny

from kdiff_jax import denoiser, domain, methods, rng
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.encoders import trained
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import make_train_step

SHAPE, BATCH = (8, 8, 3), 4
CONVOLUTION = re.compile(r"stablehlo\.convolution\(.*\} : \((.*)\) -> (.*)")
# Options with which a method has all its networks and phases.
KEYWORDS = {
    "dmd2": dict(head_groups=4, f_divergence="jensen_shannon"),
    "gdd": dict(width=2, ada_target=0.6),
    "tsm": dict(features="fitnet", feature_weight=0.1),
    "autoencoder": dict(disc_width=4),
}
# The phases of each program beside the student's: that none is forgotten.
PHASES = {"dmd": 2, "dmd2": 3, "gdd": 4, "sid": 2}


def u_net(precision, channels=8):
    module = tiny.module(
        "ddpm_unet", channels=channels, augment_dim=0, dropout=0.0, dtype=precision
    )
    about = dict(precondition="v", image_shape=SHAPE, num_classes=3)
    return denoiser.make(module, cosine(), **about)


def networks(name, precision):
    if name == "autoencoder":
        fields = dict(widths=(4, 4), num_groups=2, mid_attention=False)
        about = dict(image_shape=SHAPE, precision=precision)
        module = trained.make("autoencoder_kl", **fields, **about)
        return {"student": trained.net(module, SHAPE)}
    # Students of TSM that differ from their teacher have adapters between the two.
    student = u_net(precision, channels=16 if name == "tsm" else 8)
    return {"student": student, "teacher": u_net(precision)}


def lowered(name, precision):
    """StableHLO of one step with all phases, of shapes alone; nothing is compiled."""
    nets = networks(name, precision)
    process, keywords = cosine(), KEYWORDS.get(name, {})
    method = methods.make(name, nets=nets, process=process, **keywords)
    assert len(method.phases) == PHASES.get(name, 1)
    sgd = Optim(optax.identity(), lambda *_: 1e-3, toy.EMAS)
    optims, root = {role: sgd for role in method.nets}, jax.random.key(0)
    given = {r: jax.eval_shape(n.init, root) for r, n in nets.items() if r == "teacher"}
    state = jax.eval_shape(lambda g: init_state(method, optims, g, root), given)
    step = jax.jit(make_train_step(method, optims, method.phases))
    images = jnp.zeros((BATCH, *SHAPE))
    batch = {"x0": images, "z": images, "y": jnp.zeros(BATCH, jnp.int32)}
    return step.lower(
        state,
        {role: given[role] for role in method.frozen},
        toy.numbers(method, 4, domain.whole(3, (0.0, 1.0))),
        {k: batch[k] for k in {*method.batch_keys, "y"} & batch.keys()},
        rng.example_keys(root, 0, jnp.arange(BATCH)),
    ).as_text()


def convolutions(text):
    """The types of operands and result of each, such as "tensor<4x8x8x3xbf16>"."""
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    found = [match for line in lines if (match := CONVOLUTION.search(line))]
    assert len(found) == len(lines)
    return [" ".join(match.groups()) for match in found]


@pytest.mark.parametrize("name", [*methods.names(), *methods.names("autoencoder")])
def test_a_step_in_bfloat16_has_no_convolution_in_float32(name):
    found = convolutions(lowered(name, "bfloat16"))
    assert len(found) > 40 and all("xbf16>" in types for types in found)
    assert not [types for types in found if "f32" in types]


def test_in_float32_all_are_counted():
    found = convolutions(lowered("denoise", "float32"))
    assert len(found) > 40 and all("xf32>" in types for types in found)
