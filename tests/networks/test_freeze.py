"""Which leaves GDD-I freezes, on the full networks, by their shapes."""

import jax
import jax.numpy as jnp
import pytest

from kdiff_jax import networks
from kdiff_jax.networks.freeze import trains_with_frozen_convolutions as trains

NCSNPP = dict(embedding="fourier", noise_mult=2, encoder="residual", taps=(1, 3, 3, 1))
NETWORKS = {
    "ncsnpp 32": ("song_unet", NCSNPP, 32, 84.4),
    "ddpmpp 32": ("song_unet", {}, 32, 85.4),
    "ncsnpp 64": ("song_unet", NCSNPP | dict(channel_mult=(1, 2, 2, 2)), 64, 83.8),
    "adm 64": ("adm_unet", {}, 64, 78.8),
    # No one froze these; the shares are this project's, to see a change.
    "ddpm 32": ("ddpm_unet", {}, 32, 84.9),
    "iddpm 32": ("iddpm_unet", {}, 32, 66.5),
}


def sizes(family, fields, size):
    """path -> number of parameters."""
    module = networks.make(family, **fields)
    y = jnp.zeros(1, jnp.int32)
    x = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x, jnp.zeros(1), y)["params"]
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
        for path, leaf in jax.tree.leaves_with_path(shapes)
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_share_is_the_papers(name):
    family, fields, size, percent = NETWORKS[name]
    found = sizes(family, fields, size)
    frozen = sum(num for path, num in found.items() if not trains(path))
    assert round(100 * frozen / sum(found.values()), 1) == percent


@pytest.mark.parametrize("name", ["ncsnpp 32", "adm 64"])
def test_the_rule_on_substrings_freezes_the_same(name):
    """The authors': one of block, up, down, in, and one of conv, proj, in the name."""
    for path in sizes(*NETWORKS[name][:3]):
        place = any(word in path for word in ("block", "up", "down", "in"))
        layer = any(word in path for word in ("conv", "proj"))
        assert trains(path) == (not (place and layer)), path


@pytest.mark.parametrize(
    "path",
    [
        "enc_16x16_block0/conv0/kernel",
        "enc_16x16_block0/conv1/bias",
        "enc_16x16_block0/proj/kernel",
        "enc_16x16_down/conv0/kernel",
        "dec_8x8_in0/conv1/kernel",
        "dec_16x16_up/conv0/kernel",
        "down_0.block_0/conv1/kernel",
        "mid.block_1/conv2/kernel",
        "mid.attn_1/proj_out/kernel",
        "up_1.upsample/conv1/kernel",
        "down_blocks_0_resnets_0/conv1/kernel",
        "down_blocks_1_attentions_0/to_out_0/kernel",
        "mid_block_resnets_0/conv2/kernel",
        "down_blocks_0_downsamplers_0_conv/kernel",
    ],
)
def test_frozen(path):
    assert not trains(path)


@pytest.mark.parametrize(
    "path",
    [
        "enc_32x32_conv/kernel",
        "enc_16x16_aux_residual/kernel",
        "dec_32x32_aux_conv/kernel",
        "enc_16x16_block0/norm0/scale",
        "enc_16x16_block0/affine/kernel",
        "enc_16x16_block0/skip/kernel",
        "enc_16x16_block0/qkv/kernel",
        "map_layer0/kernel",
        "out_conv/kernel",
        "conv_in/kernel",
        "conv_out/kernel",
        "down_0.block_0/temb_proj/kernel",
        "down_0.block_0/nin_shortcut/kernel",
        "mid.attn_1/q/kernel",
        "down_blocks_0_resnets_0/time_emb_proj/kernel",
        "down_blocks_0_resnets_0/conv_shortcut/kernel",
        "time_embedding_linear_1/kernel",
    ],
)
def test_trained(path):
    assert trains(path)
