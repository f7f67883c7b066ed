"""Stable Diffusion's U-Nets against diffusers' `UNet2DConditionModel`.

Data: diffusers 0.42.1 (Apache-2.0) under PyTorch 2.13.0 on a CPU, in float64 rounded to
float32, eval mode; made by benchmarks/compare_stable_diffusion.py, whose `KINDS` are
these. Weights are those of `named_weights`.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest

from kdiff_jax import networks
from kdiff_jax.formats import lazy
from kdiff_jax.interop import diffusers_names
from kdiff_jax.interop.trees import flatten, unflatten

DATA = pathlib.Path(__file__).parent / "data" / "unet2d_condition.npz"
PLAIN = dict(
    channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    depths=(1, 0),
    num_heads=2,
    num_groups=4,
    cond_dim=12,
)
XL = PLAIN | dict(
    depths=(0, 2),
    mid_depth=2,
    num_heads=(1, 4),
    linear_projection=True,
    added_dim=30,
    added_time_dim=4,
)
KINDS = {
    "sd1": PLAIN,
    "sd2": PLAIN
    | dict(
        channel_mult=(1, 1),
        widths=(8, 12),
        num_heads=(2, 3),
        linear_projection=True,
        mid_divisor=1.5,
    ),
    "xl": XL,
    "bk": PLAIN | dict(mid_depth=None, downsample_padding=0),
    "unequal": XL
    | dict(
        mid_depth=0,
        num_blocks=(1, 2),
        depths=(0, (2, 1)),
        up_depths=((1, 2, 1), 0),
        scale_shift=True,
        num_heads=(3, 5),
        flip_sin_to_cos=False,
        freq_shift=1.0,
        center_input=True,
        emb_channels=24,
    ),
}
with_gradients = pytest.mark.parametrize("kind", ["sd1", "xl"])  # which cost most


def given(kind):
    """(the library's arrays, module, its parameters, the text)."""
    with np.load(DATA) as file:
        data = {k[len(kind) + 1 :]: v for k, v in file.items() if k.startswith(kind)}
    data = {k: np.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in data.items()}
    module = networks.make("unet2d_condition", **KINDS[kind])
    y = {k: data[k] for k in ("context", "text_embeds", "time_ids") if k in data}
    y = y if "time_ids" in y else y["context"]
    return data, module, weights(module, y), y


@functools.cache
def gradients(kind):
    """(the library's arrays, output, gradients of parameters, of x and of the text)."""
    data, module, params, y = given(kind)

    def loss(params, x, y):
        out = module.apply({"params": params}, x, jnp.asarray(data["t"]), y)
        return jnp.sum(out**2), out

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, out), (grads, grad_x, grad_y) = run(params, data["x"], y)
    grad_y = grad_y if isinstance(grad_y, dict) else {"context": grad_y}
    return data, out, flatten(grads), dict(grad_y, x=grad_x)


def weights(module, y):
    """The library's, under our names."""
    x, y = jax.tree.map(jnp.asarray, (np.zeros((2, 8, 12, 4), np.float32), y))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(2), y)

    def leaf_of(path, leaf):
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape), (0,))
        shape = tuple(leaf.shape[axis] for axis in axes)
        name = diffusers_names.their_name(path)
        return lazy.of(named_weights.stable_diffusion(name, shape))

    flat = {k: leaf_of(k, leaf) for k, leaf in flatten(shapes["params"]).items()}
    theirs = {diffusers_names.their_name(k): leaf for k, leaf in flat.items()}
    assert len(theirs) == len(flat)
    ours = diffusers_names.read_weights(theirs)
    return unflatten({k: leaf.read() for k, leaf in ours.items()})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("sd1", "xl")])
def test_the_output_is_the_library_s(kind):
    data, module, params, y = given(kind)
    out = jax.jit(module.apply)({"params": params}, data["x"], data["t"], y)
    # Measured: 3e-6 to 9e-6, at outputs of up to 5.4.
    np.testing.assert_allclose(out, data["out"], atol=3e-5, rtol=0)


@with_gradients
def test_the_gradients_of_what_is_given_are_the_library_s(kind):
    data, out, _, found = gradients(kind)
    np.testing.assert_allclose(out, data["out"], atol=3e-5, rtol=0)
    for name in ("x", "context", *(["text_embeds"] if "time_ids" in data else [])):
        expected = data[f"grad_{name}"]
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, atol=1e-3 * largest, rtol=0)


@with_gradients
def test_the_gradients_of_all_parameters_have_the_library_s_norms(kind):
    data, _, grads, _ = gradients(kind)
    names = sorted(diffusers_names.their_name(path) for path in grads)
    expected = dict(zip(names, data["norms"], strict=True))
    largest = max(expected.values())
    for name, norm in expected.items():
        found = np.linalg.norm(grads[diffusers_names.our_path(name)])
        about = dict(rtol=1e-3, atol=1e-6 * largest, err_msg=name)
        np.testing.assert_allclose(found, norm, **about)
