"""Stable Diffusion's U-Nets: their sizes, what they are told, what they give."""

import functools
import hashlib
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks as tiny

from kdiff_jax import networks
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import diffusers_names
from kdiff_jax.interop.trees import flatten
from kdiff_jax.networks.freeze import trains_with_frozen_convolutions as trains

SD1 = dict(cond_dim=768)
SD2 = dict(cond_dim=1024, num_heads=(5, 10, 20, 20), linear_projection=True)
XL = dict(
    channel_mult=(1, 2, 4),
    depths=(0, 2, 10),
    mid_depth=10,
    num_heads=(5, 10, 20),
    linear_projection=True,
    cond_dim=2048,
    added_dim=2816,
)
FEWER = SD1 | dict(num_blocks=1)
THREE = dict(channel_mult=(1, 2, 4), depths=(1, 1, 1))
FULL = dict(
    sd15=SD1,
    sd21=SD2,
    sdxl=XL,
    bk_base=FEWER,
    bk_small=FEWER | dict(mid_depth=None),
    bk_tiny=FEWER | THREE | dict(mid_depth=None),
)
TINY = dict(
    channels=8, channel_mult=(1, 2), num_blocks=1, depths=(1, 0), num_heads=2
) | dict(num_groups=4, cond_dim=6)
TINY_XL = TINY | dict(added_dim=11, added_time_dim=4)
ONE_LEVEL = TINY_XL | dict(channel_mult=(1,), depths=(1,), mid_depth=None)


@functools.cache
def full(name):
    return flatten(shapes(**FULL[name]))


def shapes(**fields):
    network = networks.make("unet2d_condition", **fields)
    x, t = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1)
    return jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name, tensors, count",
    [
        ("sd15", 686, 859_520_964),
        ("bk_tiny", 358, 323_384_964),
        slow("sd21", 686, 865_910_724),
        slow("sdxl", 1680, 2_567_463_684),
        slow("bk_base", 442, 579_384_964),
        slow("bk_small", 396, 482_346_884),
    ],
)
def test_published_networks_have_their_sizes(name, tensors, count):
    found = full(name)
    assert len(found) == tensors
    assert sum(math.prod(leaf.shape) for leaf in found.values()) == count


# SHA-256 of sorted lines "name [shape]" of the published files.
SD15 = "77ebc1df4e20916ac2e4cf489483e15661fccfe020d57eb554ab4671224d5de1"
SD21 = "e1b6b20265b7d9d1d5860597d83fb88d34c545a8f97990087deb27c14c3a378e"


@pytest.mark.parametrize("name, digest", [("sd15", SD15), slow("sd21", SD21)])
def test_every_tensor_has_its_published_name_and_shape(name, digest):
    lines = []
    for path, leaf in full(name).items():
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape), (0,))
        shape = [leaf.shape[axis] for axis in axes]
        lines.append(f"{diffusers_names.their_name(path)} {shape}\n")
    assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() == digest


def test_names_go_there_and_back():
    for path in flatten(shapes(**TINY_XL)):
        assert diffusers_names.our_path(diffusers_names.their_name(path)) == path


def test_features_are_one_per_level_the_middle_and_one_per_level_up():
    network = networks.make("unet2d_condition", **TINY)
    args = jax.random.key(0), jnp.zeros((2, 8, 4, 4)), jnp.zeros(2)
    run = lambda method: jax.eval_shape(  # noqa: E731
        lambda: network.init_with_output(*args, method=method)[0]
    )
    out, features = run("with_features")
    assert out.shape == (2, 8, 4, 4)
    assert [f.shape for f in features] == [
        (2, 8, 4, 8),
        (2, 4, 2, 16),
        (2, 4, 2, 16),
        (2, 4, 2, 16),
        (2, 8, 4, 8),
    ]
    chex.assert_trees_all_equal_shapes(run("encode"), features[:3])


def test_without_a_bottleneck_no_feature_is_there_twice():
    network = networks.make("unet2d_condition", **ONE_LEVEL)
    args = jax.random.key(0), jnp.zeros((2, 4, 4, 4)), jnp.zeros(2)
    run = lambda: network.init_with_output(*args, method="with_features")[0]  # noqa: E731
    assert len(jax.eval_shape(run)[1]) == 2


@pytest.fixture(scope="module")
def drawn():
    """(parameters of ONE_LEVEL none of which is zero, x, t, y)."""
    params = tiny.draw(networks.make("unet2d_condition", **ONE_LEVEL))
    keys = jax.random.split(jax.random.key(1), 3)
    y = dict(
        context=jax.random.normal(keys[0], (2, 3, 6)),
        text_embeds=jax.random.normal(keys[1], (2, 3)),
        time_ids=jnp.array([[8.0, 4.0], [1.0, 0.0]]),
    )
    return params, jax.random.normal(keys[2], (2, 4, 4, 3)), jnp.array([3.0, 700.0]), y


def test_bfloat16_remat_and_what_is_told(drawn):
    params, x, t, y = drawn

    def compiled(**fields):
        network = networks.make("unet2d_condition", **ONE_LEVEL, **fields)
        return jax.jit(lambda y: network.apply({"params": params}, x, t, y))

    run = compiled()
    exact, rough = run(y), compiled(dtype="bfloat16", remat=True)(y)
    assert exact.dtype == rough.dtype == jnp.float32
    assert 1e-4 < np.std(rough - exact) / np.std(exact) < 0.03
    for name in y:
        assert np.abs(run(y | {name: y[name] + 1}) - exact).max() > 1e-3, name


@pytest.mark.parametrize(
    "fields, y, text",
    [
        (TINY, jnp.zeros((2, 3, 5)), r"\[2, 3, 5\]; .* \[images, tokens, 6\]"),
        (TINY_XL, jnp.zeros((2, 3, 6)), "has context; .* text_embeds, time_ids"),
        (
            TINY_XL,
            dict(
                context=jnp.zeros((2, 3, 6)),
                text_embeds=jnp.zeros((2, 3)),
                time_ids=jnp.zeros((2, 3)),
            ),
            "text_embeds of 3 and 3 time_ids; .* 11 - 3 x 4 = -1",
        ),
        (TINY | dict(depths=(1,)), jnp.zeros((2, 3, 6)), "depths=.*2 levels"),
        (TINY | dict(depths=((1, 1), 0)), jnp.zeros((2, 3, 6)), "1 residual blocks"),
    ],
)
def test_what_it_cannot_be_told_is_one_line(fields, y, text):
    network = networks.make("unet2d_condition", **fields)
    args = jax.random.key(0), jnp.zeros((2, 4, 4, 4)), jnp.zeros(2), y
    with pytest.raises(ConfigError, match=text) as error:
        jax.eval_shape(network.init, *args)
    assert "\n" not in str(error.value)


def test_what_gdd_freezes_are_convolutions_and_the_end_of_each_attention():
    paths = [path for path in flatten(shapes(**TINY)) if not trains(path)]
    layers = {
        path.split("/", 1)[1].rsplit("/", 1)[0]
        for path in paths
        if "_conv/" not in path
    }
    end = "transformer_blocks_0/{}/to_out_0"
    ends = {end.format("attn1"), end.format("attn2"), "proj_out"}
    assert layers == {"conv1", "conv2", *ends}
    assert {path.split("/")[0] for path in paths if "_conv/" in path} == {
        "down_blocks_0_downsamplers_0_conv",
        "up_blocks_0_upsamplers_0_conv",
    }
