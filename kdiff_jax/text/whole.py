"""A pipeline folder as one model: prompts in, pixels out, as models of recipes are."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from kdiff_jax import domain, interop, latent
from kdiff_jax.encoders import latents, texts
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.interop.model import Model
from kdiff_jax.named import Named, frozen
from kdiff_jax.text import encoder as encoders
from kdiff_jax.text.networks import ADDED

PARTS = (encoders.PART, clip_tokenizer.PART, latent.PART)
LEFT_OUT = (
    "parent",
    "name",
    "dtype",
    "remat",
)  # of fields: no function depends on them


def load_model(path: str | os.PathLike, precision: str | None = None) -> Model:
    """A model; of a folder of Stable Diffusion with its encoders in it.

    Such a model reads token ids of prompts, those of no text where none are given. One
    without encoders beside it, and one of SDXL's kind, which reads more than text
    states, stays as `interop.load` gives it.

    Args:
        path: A model, as `interop.load` takes it.
        precision: Type that the networks compute in; None for the model's own.

    Raises:
        CheckpointError: If nothing loadable is there, or it is damaged. One line.

    Examples:
        >>> from kdiff_jax import text
        >>> model = text.load_model(FOLDER)
        >>> model.spec.text.name, model.spec.autoencoder.name
        ('clip_text', 'autoencoder_kl')
    """
    model = interop.load(path, precision=precision)
    folder, spec = pathlib.Path(path).expanduser(), model.spec
    parts = all((folder / part).is_dir() for part in PARTS)
    if (
        spec.text
        or not spec.cond_length
        or spec.network.keywords.get(ADDED)
        or not parts
    ):
        return model
    encoder, vae = encoders.load(folder), latent.load(folder)
    tokens = clip_tokenizer.load(folder)([""])[:, : spec.cond_length]
    scale = dict(scaling_factor=vae.scaling_factor, shift_factor=vae.shift_factor)
    spec = spec.replace(
        text=Named("clip_text", frozen(_fields(encoder.module))),
        autoencoder=Named("autoencoder_kl", frozen(_fields(vae.module) | scale)),
    )
    net, process = interop.build(spec, precision)
    beside: dict[str, Any] = {
        domain.TABLE: tokens.astype(np.uint16),
        texts.ROLE: encoder.params,
        latents.ROLE: vae.params,
    }
    about: dict[str, Any] = dict(net=net, process=process, spec=spec, frozen=beside)
    return dataclasses.replace(model, **about)


def _fields(module: Any) -> dict[str, Any]:
    """Fields of a network that its function depends on."""
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in LEFT_OUT
    }
