"""Tiny encoders in the files of diffusers and transformers, with weights by name."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import named_weights
import numpy as np

from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL
from kdiff_jax.encoders.clip_text import ClipText
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import autoencoder, clip_text, diffusers_files, trees

PLAIN = dict(
    _class_name="AutoencoderKL",
    block_out_channels=[8, 16],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    layers_per_block=1,
    norm_num_groups=4,
)
ATTENTION = dict(
    block_out_channels=[8, 12],
    down_block_types=["AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
    up_block_types=["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
    layers_per_block=1,
    norm_num_groups=2,
    use_quant_conv=False,
    use_post_quant_conv=False,
    mid_block_add_attention=False,
    latent_channels=3,
)
# Small numbers before some norms, so that a wrong epsilon shows.
SMALL = ("encoder.conv_in", "decoder.conv_in", "decoder.mid_block.resnets.0.conv2")


def shapes(config):
    """Shapes of the arrays of an autoencoder, by diffusers' names."""
    return _shapes(AutoencoderKL(**autoencoder.read_config(config).fields))


@functools.cache
def _shapes(module):
    x = jnp.zeros((1, module.factor, module.factor, module.in_channels))
    found = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return {
        autoencoder.their_name(path): in_torch(path, leaf.shape)
        for path, leaf in trees.flatten(found).items()
    }


def in_torch(path, shape):
    """The shape as PyTorch has it."""
    if not path.endswith("/kernel"):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def vae_tensors(config):
    """The arrays of an autoencoder, by diffusers' names."""
    return {
        name: named_weights.tensor(name, shape)
        * np.float32(0.002 if name.startswith(SMALL) else 1)
        for name, shape in shapes(config).items()
    }


def vae_folder(
    folder, config=None, arrays=None, *, dtype="float32", ending="safetensors"
):
    """A folder of diffusers with the autoencoder of a config."""
    config = PLAIN if config is None else config
    arrays = vae_tensors(config) if arrays is None else arrays
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    leaves = {k: lazy.of(v.astype(dtype)) for k, v in arrays.items()}
    tensors.write(folder / f"{diffusers_files.WEIGHTS}.{ending}", leaves)
    return folder


QUICK = dict(
    model_type="clip_text_model",
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=9,
    hidden_act="quick_gelu",
    eos_token_id=2,
    projection_dim=8,
)
PROJECTED = QUICK | dict(
    architectures=["CLIPTextModelWithProjection"],
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=3,
    hidden_act="gelu",
    eos_token_id=29,
)


def text_tensors(config):
    """The arrays of a text encoder, by transformers' names."""
    fields = clip_text.read_config(config)
    if not clip_text.needs_projection(config):
        fields["projection"] = None
    module = ClipText(**fields)
    ids = jnp.zeros((1, module.num_positions), jnp.int32)
    found = jax.eval_shape(module.init, jax.random.key(0), ids)["params"]
    empty = {k: lazy.of(np.empty(v.shape)) for k, v in trees.flatten(found).items()}
    return {
        name: named_weights.tensor(name, leaf.shape)
        * np.float32(0.02 if "_embedding" in name else 1)
        for name, leaf in clip_text.their_arrays(empty).items()
    }


def text_folder(folder, config=None, dtype="float32", name="model.safetensors"):
    """A folder of transformers with the text encoder of a config."""
    config = QUICK if config is None else config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {k: lazy.of(v.astype(dtype)) for k, v in text_tensors(config).items()}
    tensors.write(folder / name, arrays)
    return folder


def original_names(tensors, levels):
    """The arrays of an autoencoder under the names of before diffusers."""
    found = {}
    for name, array in tensors.items():
        name = re.sub(
            r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name
        )
        for theirs, original in (
            (r"down_blocks\.(\d+)\.", r"down.\1."),
            (r"(\.\d+)\.resnets\.", r"\1.block."),
            (r"(down|up)\.(\d+)\.attentions\.", r"\1.\2.attn."),
            (r"(up|down)samplers\.0\.", r"\1sample."),
            (r"mid_block\.resnets\.0\.", "mid.block_1."),
            (r"mid_block\.resnets\.1\.", "mid.block_2."),
            (r"mid_block\.attentions\.0\.", "mid.attn_1."),
            (r"conv_shortcut", "nin_shortcut"),
            (r"conv_norm_out", "norm_out"),
            (r"group_norm\.", "norm."),
            (r"\.to_([qkv])\.", r".\1."),
            (r"\.to_out\.0\.", ".proj_out."),
        ):
            name = re.sub(theirs, original, name)
        is_matrix = array.ndim == 2
        found[name] = array[..., None, None] if is_matrix else array
    return found
