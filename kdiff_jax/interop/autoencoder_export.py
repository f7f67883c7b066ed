"""`AutoencoderKL` as a folder vae/ that diffusers loads."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from kdiff_jax.files import write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import autoencoder, diffusers_files, diffusers_options
from kdiff_jax.interop.autoencoder import Described
from kdiff_jax.interop.trees import flatten
from kdiff_jax.types import Params


def save(folder: pathlib.Path, described: Described, params: Params) -> None:
    """Writes config.json and the weights; an autoencoder in the folder is replaced.

    Args:
        folder: Made where it does not exist.
        described: Fields of the network and its factors.
        params: Its parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / diffusers_files.CONFIG
    config.unlink(missing_ok=True)
    weights = folder / f"{diffusers_files.WEIGHTS}.safetensors"
    arrays = {
        autoencoder.their_name(path): lazy.of(_theirs(leaf))
        for path, leaf in flatten(jax.device_get(params)).items()
    }
    # Readers of PyTorch's safetensors want that one line of metadata.
    tensors.write(weights, arrays, {"format": "pt"})
    # The config comes last: a folder without it holds no model.
    write_atomically(config, json.dumps(write_config(described), indent=2))


def write_config(described: Described) -> dict[str, Any]:
    """The inverse of `autoencoder.read_config`."""
    fields = described.fields
    num = len(fields["widths"])
    blocks = {}
    for key, known in (("down", autoencoder.DOWN), ("up", autoencoder.UP)):
        attends = fields.get(f"{key}_attention") or (False,) * num
        names = {attention: name for name, attention in known.items()}
        blocks[f"{key}_block_types"] = [names[one] for one in attends]
    return dict(
        _class_name=autoencoder.CLASS,
        _diffusers_version=diffusers_options.VERSION,
        act_fn="silu",
        block_out_channels=list(fields["widths"]),
        force_upcast=False,
        in_channels=fields["in_channels"],
        latent_channels=fields["latent_channels"],
        layers_per_block=fields["num_blocks"],
        mid_block_add_attention=fields["mid_attention"],
        norm_num_groups=fields["num_groups"],
        out_channels=fields["out_channels"],
        scaling_factor=described.scaling_factor,
        shift_factor=described.shift_factor or None,
        use_post_quant_conv=fields["post_quant_conv"],
        use_quant_conv=fields["quant_conv"],
        **blocks,
        **({"sample_size": described.sample_size} if described.sample_size else {}),
    )


def _theirs(leaf: np.ndarray) -> np.ndarray:
    """Linear [out, in], Conv [out, in, H, W]."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(leaf.ndim)
    return leaf if axes is None else np.ascontiguousarray(leaf.transpose(axes))
