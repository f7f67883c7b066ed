"""Channel selection: identity, exact where channels are copies, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks as tiny
from tolerance import REORDER

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.networks import channels

each_network = pytest.mark.parametrize("name", sorted(tiny.FIELDS))


def repeat(leaf, shape, path):
    """The wide leaf in whose network each channel is the narrow one's, r times.

    Kernels read the first of r equal channels; their other numbers are 0.
    """
    layer, kind = path[-2].key, path[-1].key
    inputs: tuple[int, ...] = ()
    if kind == "kernel":
        inputs = (leaf.ndim - 2,)
        if leaf.ndim == 3:  # the heads of an attention are an axis
            inputs = (0, 1) if layer == "proj_out" else (0,)
    for axis, (few, many) in enumerate(zip(leaf.shape, shape, strict=True)):
        if few != many:
            if layer == "qkv" and axis not in inputs:
                parts = leaf.reshape(*leaf.shape[:-1], few // 3, 3)
                parts = np.repeat(parts, many // few, axis=-2)
                leaf = parts.reshape(*leaf.shape[:-1], many)
            else:
                leaf = np.repeat(leaf, many // few, axis=axis)
            if axis in inputs:
                copies = np.arange(many) % (many // few) > 0
                np.moveaxis(leaf, axis, -1)[..., copies] = 0
    return leaf


def widened(name, factor, **fields):
    """(wide network, its params, narrow network, its params), of random numbers."""
    wide, narrow = (
        tiny.module(name, **fields | {k: v * f for k, v in widths(name).items()})
        for f in (factor, 1)
    )
    generator = np.random.default_rng(0)

    def draw(leaf):
        noise = generator.standard_normal(leaf.shape).astype(np.float32)
        return noise / max(leaf.size / leaf.shape[-1], 1) ** 0.5

    params = jax.tree.map(draw, tiny.shapes(narrow))
    big = jax.tree_util.tree_map_with_path(
        lambda path, leaf, like: repeat(leaf, like.shape, path),
        params,
        tiny.shapes(wide),
    )
    return wide, big, narrow, params


def widths(name):
    """The fields that a width is, of the network that all tests begin with."""
    return {"channels": 16} | ({"emb_channels": 64} if name == "iddpm_unet" else {})


@each_network
@pytest.mark.parametrize("rule", ["even", "first"])
def test_the_same_width_changes_nothing(name, rule):
    params = jax.tree.map(np.asarray, tiny.params(name))
    found = channels.select(params, tiny.shapes(tiny.module(name)), rule)
    chex.assert_trees_all_equal(found, params)


@each_network
@pytest.mark.parametrize("factor", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_of_copied_channels_one_each_is_taken(name, factor):
    _, big, narrow, params = widened(name, factor)
    found = channels.select(big, tiny.shapes(narrow))
    chex.assert_trees_all_close(found, params, **REORDER)


def test_the_narrow_network_is_exact_where_channels_are_copies():
    """Without attention, whose logits are divided by the root of the channels, and
    without the time, whose sines are no copies; with as many groups in a norm."""
    fields = dict(num_groups=4, attn_resolutions=(), mid_attention=False)
    wide, big, narrow, params = widened("ddpm_unet", 2, **fields)
    for tree in (big, params):
        first = tree["time_embedding_linear_1"]
        first["kernel"] = np.zeros(first["kernel"].shape, np.float32)
    x, c_noise, y, augment, _ = tiny.inputs()

    def run(network, params):
        args = ({"params": params}, x, c_noise, y)
        return jax.jit(lambda: network.apply(*args, augment=augment))()

    found = channels.select(big, tiny.shapes(narrow))
    F = run(narrow, found)
    assert F.std() > 0.1
    np.testing.assert_allclose(F, run(wide, big), rtol=1e-3, atol=1e-3 * F.std())


def test_skips_and_modulations_keep_their_halves():
    """The axis of a concatenation: 12 of h and 12 of a skip, or scale and shift."""
    leaf = np.arange(24, dtype=np.float32)[None]
    template = {"conv": {"kernel": jax.ShapeDtypeStruct((1, 16), jnp.float32)}}
    found = channels.select({"conv": {"kernel": leaf}}, template)["conv"]["kernel"][0]
    np.testing.assert_array_equal(found[8:], found[:8] + 12)
    np.testing.assert_array_equal(found[:8], [0, 1, 3, 4, 6, 7, 9, 10])
    first = channels.select({"conv": {"kernel": leaf}}, template, "first")
    np.testing.assert_array_equal(first["conv"]["kernel"][0], np.arange(16))


def test_q_k_and_v_stay_what_they_are():
    # 4 channels of q, k and v in turns: the number says which.
    leaf = np.tile([0.0, 1.0, 2.0], 4).astype(np.float32)
    template = {"qkv": {"bias": jax.ShapeDtypeStruct((6,), jnp.float32)}}
    found = channels.select({"qkv": {"bias": leaf}}, template)["qkv"]["bias"]
    np.testing.assert_array_equal(found, [0, 1, 2, 0, 1, 2])


def test_refusals_name_the_leaf():
    wide, big, narrow, _ = widened("ddpm_unet", 2)
    shapes = tiny.shapes
    for network, text in (
        (tiny.module("ddpm_unet", channels=16, num_blocks=2), r"_1/.* narrow network"),
        (tiny.module("ddpm_unet", channels=16, augment_dim=0), "augment_embedding/"),
        (
            tiny.module("ddpm_unet", channels=64),
            r"augment_embedding/kernel: .* \(2, 128\) and",
        ),
        (tiny.module("ddpm_unet", num_classes=2), "class_embedding/kernel: has the sh"),
    ):
        with pytest.raises(CheckpointError, match=text) as caught:
            channels.select(big, shapes(network))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="rule='last': unknown"):
        channels.select(big, shapes(narrow), "last")
