"""Weights alone, as the code that a network comes from names and orders them."""

import pathlib

import numpy as np

from kdiff_jax import networks, sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import diffusers_names, dit_names, edm_export
from kdiff_jax.interop.trees import flatten
from kdiff_jax.networks.dit import positions

WEIGHTS = "model.safetensors"
CARD = """\
# Weights of a denoising network

`{file}`: names and layout of {layout}, written by kdiff_jax. Its metadata hold the
model's spec: `interop.load` of the file gives the same model.
"""


def save(folder, model) -> pathlib.Path:
    """Writes `model.safetensors`; its metadata holds the model's spec.

    SongUNet and ADM: the state dict of NVlabs/edm. DDPM's: that of diffusers'
    `UNet2DModel`. DiT and SiT: that of their authors. That of Progressive Distillation:
    Flax names and layout, with dots.

    Args:
        folder: Made where it does not exist.
        model: An `interop.Model`.

    Raises:
        CheckpointError: If it is of many students.
    """
    model.check_alone("safetensors")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {k: lazy.of(np.asarray(v)) for k, v in flatten(model.params).items()}
    name = model.spec.network.name
    if name in edm_export.NETWORKS:
        found, layout = edm_export.state_dict(model.spec, leaves), "NVlabs/edm"
    elif name == "ddpm_unet":
        found, layout = diffusers_names.state_dict(leaves), "diffusers UNet2DModel"
    elif name == "dit":
        found, layout = dit_names.to_authors(leaves), "facebookresearch/DiT"
        found |= _positions(model)
    elif name == "unet2d_condition":
        layout = "diffusers UNet2DConditionModel"
        found = diffusers_names.state_dict(leaves)
    else:
        found = {k.replace("/", "."): leaf for k, leaf in leaves.items()}
        layout = "flax"
    spec = json_text(sealed.seal(model.spec.plain()))
    metadata = {"layout": layout, "kdiff_jax": spec}
    tensors.write(folder / WEIGHTS, found, metadata)
    write_atomically(folder / "README.md", CARD.format(layout=layout, file=WEIGHTS))
    return folder


def _positions(model) -> dict[str, lazy.Lazy]:
    """The fixed positions of a DiT, which the authors' state dicts hold.

    Raises:
        CheckpointError: If the images are not square, as those of theirs are.
    """
    fields = model.spec.network.call(networks.make)
    height, width, _ = model.image_shape
    if height != width:
        raise CheckpointError(
            f"image_shape=({height}, {width}): the authors' DiT has square images; take"
            " another --target"
        )
    grid = height // fields.patch_size
    value = positions(grid, grid, fields.channels).reshape(1, grid**2, fields.channels)
    return {"pos_embed": lazy.of(value)}
