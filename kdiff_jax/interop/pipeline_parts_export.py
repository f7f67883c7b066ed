"""What a pipeline has beside its network, of a model that has copies of it all.

So is a model whose autoencoder and text encoder a recipe has trained.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from kdiff_jax.encoders import latents, texts
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import clip_tokenizer, lazy, tensors
from kdiff_jax.interop import autoencoder_export, clip_text, diffusers_options
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop.autoencoder import Described
from kdiff_jax.interop.diffusers_condition import CLASS
from kdiff_jax.interop.diffusers_options import json_text
from kdiff_jax.interop.model import Model
from kdiff_jax.interop.schedulers_export import refused
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten
from kdiff_jax.types import Params

KLASS = "StableDiffusionPipeline"
VAE, TEXT = "vae", "text_encoder"
NONE = ("safety_checker", "feature_extractor", "image_encoder")


def has_all(model: Model, tokenizer: pathlib.Path | None) -> bool:
    """Whether a model, with the folder of a tokenizer, has all parts of a pipeline."""
    there = {latents.ROLE, texts.ROLE} <= {*model.frozen}
    return there and bool(tokenizer) and (tokenizer / clip_tokenizer.PART).is_dir()


def check(spec: Spec) -> None:
    """Refuses encoders that the pipeline would read in another way.

    Raises:
        CheckpointError: Names the field.
    """
    text, autoencoder = _encoder(spec), _autoencoder(spec)
    if text.output != "hidden":
        raise refused("text.output", text.output, f"'hidden' in {KLASS}")
    if text.num_positions != spec.cond_length:
        ways = f"as many as text.num_positions, {text.num_positions}"
        raise refused("cond_length", spec.cond_length, ways)
    if autoencoder.shift_factor:
        raise refused("shift_factor", autoencoder.shift_factor, f"0 in {KLASS}")


def write(folder: pathlib.Path, model: Model, tokenizer: pathlib.Path) -> None:
    """Writes vae/, text_encoder/ and tokenizer/; see `check`."""
    module = _autoencoder(model.spec)
    described = Described(_fields(module), module.scaling_factor, module.shift_factor)
    autoencoder_export.save(folder / VAE, described, model.frozen[latents.ROLE])
    _write_text(folder / TEXT, _encoder(model.spec), model.frozen[texts.ROLE])
    clip_tokenizer.copy(tokenizer, folder)


def index() -> dict[str, Any]:
    """model_index.json, but for the scheduler."""
    return {
        "_class_name": KLASS,
        "_diffusers_version": diffusers_options.VERSION,
        VAE: ["diffusers", "AutoencoderKL"],
        TEXT: ["transformers", clip_text.CLASSES[0]],
        clip_tokenizer.PART: ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", CLASS],
        "requires_safety_checker": False,
        **{name: [None, None] for name in NONE},
    }


def text_config(module: texts.Texts) -> dict[str, Any]:
    """The inverse of `clip_text.read_config`."""
    sizes = {
        name: getattr(module, ours) for name, (ours, _) in clip_text.COUNTS.items()
    }
    gelus = {ours: theirs for theirs, ours in reversed(clip_text.GELUS.items())}
    return sizes | dict(
        architectures=[clip_text.CLASSES[0]],
        model_type=clip_text.TEXT,
        hidden_act=gelus[module.gelu],
        layer_norm_eps=module.eps,
        attention_dropout=0.0,
        eos_token_id=clip_text.LARGEST if module.end is None else module.end,
        projection_dim=module.projection or module.width,
    )


def _write_text(folder: pathlib.Path, module: texts.Texts, params: Params) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    leaves = flatten(jax.device_get(params))
    leaves = {k: lazy.of(np.asarray(v)) for k, v in leaves.items() if k != "proj"}
    weights = folder / f"{files.TRANSFORMERS[0]}.safetensors"
    tensors.write(weights, clip_text.their_arrays(leaves), {"format": "pt"})
    # The config comes last: a folder without it holds no model.
    write_atomically(folder / files.CONFIG, json_text(text_config(module)))


def _encoder(spec: Spec) -> texts.Texts:
    assert spec.text is not None
    return spec.text.call(texts.make)


def _autoencoder(spec: Spec) -> latents.Latents:
    assert spec.autoencoder is not None
    return spec.autoencoder.call(latents.make)


def _fields(module: Any) -> dict[str, Any]:
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
