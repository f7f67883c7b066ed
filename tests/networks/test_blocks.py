"""Block selection: what BK-SDM keeps, exact where what is left out does nothing."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks as tiny

from kdiff_jax import networks
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.networks import blocks

# SD 1.5's form at three levels: transformers above, none at the innermost.
FIELDS = dict(channels=4, channel_mult=(1, 2, 2), num_blocks=2, depths=(1, 1, 0))
FIELDS |= dict(num_heads=1, num_groups=2, cond_dim=3, out_channels=3)
TWO_LEVELS = dict(num_blocks=1, mid_depth=None, channel_mult=(1, 2), depths=(1, 1))


@functools.cache
def all_shapes(**fields):
    return tiny.shapes(networks.make("unet2d_condition", **FIELDS | fields))


def shapes(**fields):
    return dict(all_shapes(**fields))


def marked():
    """Parameters whose every number is that of their layer."""
    return {
        name: jax.tree.map(lambda x, k=k: np.full(x.shape, k, np.float32), layer)
        for k, (name, layer) in enumerate(sorted(shapes().items()))
    }


def sources(template):
    """layer of the student -> layer of the teacher that it begins as."""
    teacher = marked()
    found = blocks.select(teacher, template)
    chex.assert_trees_all_equal_shapes(found, template)
    names = dict(enumerate(sorted(teacher)))
    return {k: names[int(jax.tree.leaves(v)[0].flat[0])] for k, v in found.items()}


def moved(found):
    return {k: v for k, v in found.items() if k != v}


# The first of two blocks down, the first and the third of three up.
LAST = {
    f"up_blocks_{level}_{kind}_1": f"up_blocks_{level}_{kind}_2"
    for level in range(3)
    for kind in ("resnets", "attentions")
    if (level, kind) != (0, "attentions")
}


def test_fewer_blocks_are_the_first_ones_and_the_decoders_last():
    template = shapes(num_blocks=1)
    found = sources(template)
    assert moved(found) == LAST
    assert "mid_block_attentions_0" in found
    assert found["down_blocks_2_resnets_0"] == "down_blocks_2_resnets_0"
    rest = {k: v for k, v in template.items() if not k.startswith("mid_block")}
    assert sources(rest) == {k: found[k] for k in rest}


def test_without_the_innermost_level_the_decoder_begins_one_later():
    found = sources(shapes(**TWO_LEVELS))
    ups = {
        f"up_blocks_{level}_{kind}_{i}": f"up_blocks_{level + 1}_{kind}_{2 * i}"
        for level in range(2)
        for kind in ("resnets", "attentions")
        for i in range(2)
    }
    between = {"up_blocks_0_upsamplers_0_conv": "up_blocks_1_upsamplers_0_conv"}
    assert moved(found) == ups | between
    assert "down_blocks_1_downsamplers_0_conv" not in found


def test_with_all_blocks_it_is_the_teacher():
    teacher = marked()
    chex.assert_trees_all_equal(blocks.select(teacher, shapes()), teacher)


def test_a_shallower_transformer_has_the_first_blocks():
    teacher, name = marked(), "mid_block_attentions_0"
    more = {"transformer_blocks_1": teacher[name]["transformer_blocks_0"]}
    deep = teacher | {name: teacher[name] | more}
    chex.assert_trees_all_equal(blocks.select(deep, shapes()), teacher)
    with pytest.raises(CheckpointError, match="mid_block_attentions_0/transformer_blo"):
        blocks.select(teacher, deep)


def test_it_answers_as_the_teacher_where_what_is_left_out_does_nothing():
    """Blocks whose branch is zero and whose shortcut lets h, and no skip, through."""
    one = FIELDS | dict(channel_mult=(1,), depths=(0,), mid_depth=0)
    few = one | dict(num_blocks=1, mid_depth=None)
    teacher, student = (networks.make("unet2d_condition", **f) for f in (one, few))
    params = jax.tree.map(np.array, tiny.draw(teacher))
    for name in ("down_blocks_0_resnets_1", "mid_block_resnets_0"):
        params[name]["conv2"] = jax.tree.map(np.zeros_like, params[name]["conv2"])
    between = params["up_blocks_0_resnets_1"]
    between["conv2"] = jax.tree.map(np.zeros_like, between["conv2"])
    shortcut = between["conv_shortcut"]
    shortcut["bias"] = np.zeros_like(shortcut["bias"])
    passes = np.eye(8, 4, dtype=np.float32)
    shortcut["kernel"] = passes.reshape(shortcut["kernel"].shape)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))

    def run(network, params):
        return jax.jit(network.apply)({"params": params}, x, jnp.array([3.0, 700.0]))

    found = blocks.select(params, tiny.shapes(student))
    expected = run(teacher, params)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(run(student, found), expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_selected_is_one_line():
    teacher = marked()
    attended = teacher | {"down_blocks_2_attentions_0": teacher["conv_in"]}
    deeper = teacher | {"down_blocks_3_resnets_0": teacher["conv_in"]}
    other = {"enc_8x8_block0": teacher["conv_in"]}
    for params, template, text in (
        (teacher, attended, "nothing for its layer down_blocks_2_attentions_0; take a"),
        (teacher, deeper, "nothing for its layer down_blocks_3_resnets_0"),
        (other, other, "unet2d_condition and ddpm_unet, and"),
    ):
        with pytest.raises(CheckpointError, match=text) as caught:
            blocks.select(params, template)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="blocks='last': unknown"):
        blocks.select(teacher, teacher, "last")
