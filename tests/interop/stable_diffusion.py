"""Tiny folders of Stable Diffusion: configs of the library, weights by their names."""

import json
import pathlib

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
from safetensors.numpy import save_file

from benchmarks.compare_stable_diffusion import KINDS
from kdiff_jax import networks
from kdiff_jax.interop import diffusers_condition, diffusers_names
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import flatten

DATA = pathlib.Path(__file__).parents[1] / "parity/data/unet2d_condition.npz"
WEIGHTS = "diffusion_pytorch_model"
PNDM = dict(
    _class_name="PNDMScheduler",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
    clip_sample=False,  # which its class does not take
)
LISTED = dict(
    scheduler="PNDMScheduler",
    text_encoder="CLIPTextModel",
    tokenizer="CLIPTokenizer",
    unet="UNet2DConditionModel",
    vae="AutoencoderKL",
    safety_checker=None,
    feature_extractor=None,
)


def config(kind="sd1", **changes):
    """config.json of a network; None leaves an option out."""
    found = dict(_class_name="UNet2DConditionModel", in_channels=4, out_channels=4)
    found |= KINDS[kind] | changes
    return {k: v for k, v in found.items() if v is not None or k == "mid_block_type"}


def tensors(config):
    """{the library's name: array} of such a network."""
    fields, _, cond_dim = diffusers_condition.read_config(config, Facts())
    fields = dict(fields, cond_dim=cond_dim)
    network = networks.make(
        fields.pop("name"), **jax.tree.map(_tuples, fields, is_leaf=_is_list)
    )
    args = jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1)
    found = {}
    for path, leaf in flatten(jax.eval_shape(network.init, *args)["params"]).items():
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape), (0,))
        name = diffusers_names.their_name(path)
        shape = tuple(leaf.shape[axis] for axis in axes)
        found[name] = named_weights.stable_diffusion(name, shape)
    return found


def _is_list(value):
    return isinstance(value, list)


def _tuples(value):
    return tuple(map(_tuples, value)) if _is_list(value) else value


def pipeline(
    folder, config, arrays, *, scheduler=PNDM, weights=f"{WEIGHTS}.safetensors"
):
    """Writes a folder as `save_pretrained` does, less what no test reads."""
    index = {k: ["diffusers", v] if v else [None, None] for k, v in LISTED.items()}
    write(
        folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **index}
    )
    write(folder / "unet/config.json", config)
    write(folder / "scheduler/scheduler_config.json", scheduler)
    write(folder / "text_encoder/config.json", {"max_position_embeddings": 9})
    (folder / "text_encoder/model.safetensors").write_bytes(b"of another part")
    write(folder / "vae/config.json", {})
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text("{}")
    save_file(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()},
        folder / "unet" / weights,
    )
    return folder


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
