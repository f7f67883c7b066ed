"""CLIP's text towers against those of transformers.

Data: `clip_text`, transformers 5.24.0 (Apache-2.0) under PyTorch 2.13.0 on a CPU in
float64; weights by name (`encoder_files`); `grad_l2` of sum(hidden^3) +
sum(penultimate^2) + sum(pooled^2), or of the projection in place of the last.
"""

import json
import pathlib

import encoder_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_files import PROJECTED, QUICK

from kdiff_jax import text
from kdiff_jax.encoders.clip_text import ClipText
from kdiff_jax.formats import lazy
from kdiff_jax.interop import clip_text, trees

DATA = pathlib.Path(__file__).parents[1] / "parity/data"
TEXT = dict(rtol=0, atol=5e-5)
CASES = {"quick": (QUICK, "pooled"), "projected": (PROJECTED, "projected")}
H = dict(width=1024, num_blocks=23, num_heads=16, hidden=4096, gelu="exact")
BIG_G = dict(width=1280, num_blocks=32, num_heads=20, hidden=5120, gelu="exact")


@pytest.fixture(scope="module")
def data():
    with np.load(DATA / "clip_text.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", CASES)
def test_states_and_gradients_are_transformers(name, data, tmp_path):
    config, last = CASES[name]
    encoder = text.load(encoder_files.text_folder(tmp_path, config))
    ids = jnp.asarray(data[f"{name}/ids"])

    def loss(params):
        out = encoder.module.apply({"params": params}, ids)
        end = jnp.sum(getattr(out, last) ** 2)
        return jnp.sum(out.hidden**3) + jnp.sum(out.penultimate**2) + end, out

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(encoder.params)
    for key in ("hidden", "penultimate", last):
        np.testing.assert_allclose(getattr(out, key), data[f"{name}/{key}"], **TEXT)
    assert (out.projected is None) == (name == "quick")
    norms = json.loads(str(data["grad_l2"]))[name]
    flat = {k: lazy.of(np.asarray(v)) for k, v in trees.flatten(grads).items()}
    found = clip_text.their_arrays(flat)
    assert found.keys() == norms.keys()
    atol = 1e-4 * max(norms.values())
    for key, leaf in found.items():
        norm = np.linalg.norm(leaf.read())
        np.testing.assert_allclose(norm, norms[key], rtol=1e-3, atol=atol, err_msg=key)


def test_bfloat16_is_near_and_answers_in_float32(data, tmp_path):
    folder = encoder_files.text_folder(tmp_path)
    out = text.load(folder, precision="bfloat16").apply(data["quick/ids"])
    assert out.hidden.dtype == out.penultimate.dtype == jnp.float32
    assert 1e-5 < np.abs(out.hidden - data["quick/hidden"]).max() < 0.1


def shapes(**fields):
    module = ClipText(**fields)
    ids = jnp.zeros((1, 77), jnp.int32)
    found = jax.eval_shape(module.init, jax.random.key(0), ids)["params"]
    return trees.flatten(found)


@pytest.mark.parametrize(
    ("fields", "published"),
    [
        (dict(), 123_060_480),
        (H, 340_387_840),
        (BIG_G | dict(projection=1280), 694_659_840),
    ],
)
def test_sizes_are_the_published_ones(fields, published):
    assert sum(leaf.size for leaf in shapes(**fields).values()) == published


def test_names_of_the_full_size_are_stable_diffusion_s():
    wanted = json.loads((DATA / "sd15_text_encoder_shapes.json").read_text())
    assert len(wanted) == 197
    del wanted["text_model.embeddings.position_ids"]  # a constant
    zero = np.zeros(())
    leaves = {
        name: lazy.of(np.broadcast_to(zero, leaf.shape))
        for name, leaf in shapes().items()
    }
    found = clip_text.their_arrays(leaves)
    assert {name: list(leaf.shape) for name, leaf in found.items()} == wanted
    named = clip_text.named(found)
    assert ClipText(**clip_text.of_shapes(named, gelu="quick")) == ClipText()
    back = clip_text.leaves(named)
    assert back.keys() == leaves.keys()
    for name, leaf in back.items():
        assert leaf.shape == leaves[name].shape
