"""The reference implementations' tiny networks: their weights, read into ours.

Weights are random, made by the reference code itself (see each test's docstring for its
commit); `data/` holds them in the reference's own layout and names.
"""

import json
import pathlib

import numpy as np
from flax import serialization, traverse_util
from safetensors.numpy import load_file

from kdiff_jax import networks

DATA = pathlib.Path(__file__).parent / "data"
SONG = dict(
    channels=24, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), augment_dim=9
)
NCSNPP = dict(embedding="fourier", noise_mult=2, encoder="residual", taps=(1, 3, 3, 1))
PD = dict(
    channels=32,
    emb_channels=64,
    channel_mult=(1, 1),
    num_blocks=1,
    attn_resolutions=(8,),
)
NETWORKS = {  # name of the data -> name and fields of the network
    "edm_tiny_ddpmpp_vp_uncond": ("song_unet", SONG),
    "edm_tiny_ncsnpp_edm_cond": ("song_unet", SONG | NCSNPP | dict(num_classes=10)),
    "edm_tiny_adm_edm_cond": (
        "adm_unet",
        dict(
            channels=16,
            channel_mult=(1, 4),
            emb_mult=2,
            num_blocks=1,
            attn_resolutions=(8,),
            augment_dim=9,
            num_classes=20,
        ),
    ),
    "diffusers_tiny_ddpm": (
        "ddpm_unet",
        dict(
            channels=24,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(8,),
            num_groups=8,
        ),
    ),
    "gr_dd_tiny_uncond": ("iddpm_unet", PD),
    "gr_dd_tiny_both": ("iddpm_unet", PD | dict(out_channels=6)),
    "gr_dd_tiny_uncond_teacher": ("iddpm_unet", PD),
    "gr_dd_tiny_both_teacher": ("iddpm_unet", PD | dict(out_channels=6)),
}


def network(name):
    """(module, params) of a tiny network."""
    model, fields = NETWORKS[name]
    module = networks.make(model, **fields)
    if name.startswith("gr_dd"):
        state = (DATA / f"{name}.msgpack").read_bytes()
        return module, serialization.msgpack_restore(state)["ema_params"]
    flat = {
        path(name, key): from_torch(tensor)
        for key, tensor in load_file(DATA / f"{name}.safetensors").items()
        if not key.endswith("resample_filter")  # constants of our networks
    }
    return module, traverse_util.unflatten_dict(flat)


def arrays(name):
    """Arrays of `name`.npz; images (4-D, channels second) become NHWC."""
    with np.load(DATA / f"{name}.npz") as file:
        found = dict(file)
    if not name.startswith("gr_dd"):
        found = {
            k: np.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in found.items()
        }
    return found


def gradient_norms(name):
    """{path of a parameter: L2 norm of its gradient}."""
    norms = json.loads((DATA / "param_grad_l2.json").read_text())[name]
    return {path(name, key): norm for key, norm in norms.items()}


def from_torch(tensor):
    """One leaf: Dense [in, out], Conv [H, W, in, out]."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(tensor.ndim)
    return tensor if axes is None else tensor.transpose(axes)


def path(name, key):
    """Where torch's `key` stands in our parameters."""
    *parts, leaf = key.removeprefix("model.").split(".")
    if name.startswith(("edm", "dmd2")):
        head = 2 if parts[0] in ("enc", "dec") else 1
    elif "samplers" in key:
        head = len(parts)  # a convolution alone, no block
    else:
        head = {"down_blocks": 4, "up_blocks": 4, "mid_block": 3}.get(parts[0], 2)
    parts = ["_".join(parts[:head]), "_".join(parts[head:])]
    parts = tuple(part for part in parts if part)
    if leaf == "weight":
        leaf = "scale" if "norm" in parts[-1] else "kernel"
    return (*parts, leaf)
