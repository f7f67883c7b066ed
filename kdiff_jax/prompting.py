"""Prompts of a command line as a model reads them, by the tokenizer beside it."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from kdiff_jax import domain
from kdiff_jax.errors import ConfigError
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.interop import Model, beside

CHUNK = 64  # prompts that are encoded at once


def prompts(
    model: Model, checkpoint: pathlib.Path, texts: Sequence[str], negative: str = ""
) -> domain.Prompt:
    """What the model reads of each prompt, and of the negative one.

    Args:
        model: A model that brings its text encoder.
        checkpoint: Its folder, of whose tokenizer the tokens are.
        texts: The prompts.
        negative: What guidance leads away from; "" is no text.

    Raises:
        CheckpointError: If there is no tokenizer.
        ConfigError: If the model reads no prompts, or a prompt is too long for it.
    """
    reader = model.net.reader
    if model.spec.text is None or reader is None:
        raise ConfigError(
            "--prompt: this model brings no text encoder; give --labels or"
            " --conditions, or train it with model.text"
        )
    tokenizer = clip_tokenizer.load(beside.with_tokenizer(checkpoint))
    length = model.spec.cond_length
    rows = beside.ids_of(tokenizer, [*texts, negative], length, "--prompt")
    read = jax.jit(reader.read)
    states = np.concatenate(
        [
            np.asarray(read(model.frozen, rows[i : i + CHUNK]))
            for i in range(0, len(rows), CHUNK)
        ]
    )
    return domain.Prompt(states[:-1], np.repeat(states[-1:], len(texts), axis=0))
