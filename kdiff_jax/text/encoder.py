"""A frozen text encoder, from a folder or a single file."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdiff_jax.encoders import texts
from kdiff_jax.encoders.clip_text import ClipText, TextStates
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import beside, clip_text, folder, original, parts
from kdiff_jax.interop.diffusers_files import TRANSFORMERS
from kdiff_jax.types import Params

PART = "text_encoder"
tokenizer = clip_tokenizer.load


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen text encoder.

    Attributes:
        module: The network.
        params: Its parameters, float32.

    Examples:
        >>> from kdiff_jax import text
        >>> tokens, encoder = text.tokenizer(FOLDER), text.load(FOLDER)
        >>> states = encoder.apply(tokens(["a cat", "a dog"]))
        >>> states.hidden.shape[:2], states.hidden.shape[2] == encoder.module.width
        ((2, 77), True)
    """

    module: ClipText
    params: Params

    def apply(self, ids: Array | np.ndarray) -> TextStates:
        """Text states of prompts.

        Args:
            ids: i32[B, L], tokens of the same folder's tokenizer; L is at most
                `module.num_positions`.

        Returns:
            `hidden` f32[B, L, D], the last block's output behind the last norm;
            `pooled` f32[B, D], that at the end of the text; `penultimate` f32[B, L, D],
            what the last block reads; `projected` f32[B, P], in the space of CLIP's
            images, or None.

        Raises:
            ConfigError: If the tokens do not fit.
        """
        ids = ids if isinstance(ids, Array) else np.asarray(ids)
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ConfigError(
                f"ids={ids.dtype}{list(ids.shape)}: must be whole numbers [B, L]; give"
                " the tokenizer a list of prompts"
            )
        if not 0 < ids.shape[1] <= self.module.num_positions:
            raise ConfigError(
                f"ids={list(ids.shape)}: this encoder reads up to"
                f" {self.module.num_positions} tokens; cut the prompts"
            )
        size = self.module.vocab_size
        if isinstance(ids, np.ndarray) and ids.size and not 0 <= ids.max() < size:
            raise ConfigError(
                f"ids={ids.max()}: this encoder has {size} tokens; take the tokenizer"
                " of its folder"
            )
        return self._apply(self.params, jnp.asarray(ids, jnp.int32))

    @functools.cached_property
    def _apply(self):
        module = self.module
        return jax.jit(lambda params, ids: module.apply({"params": params}, ids))


def load(
    path: str | os.PathLike,
    part: str = PART,
    *,
    variant: str | None = None,
    config: str | os.PathLike | Mapping[str, Any] | None = None,
    precision: str = "float32",
) -> Encoder:
    """The text encoder of a folder or file; no code of it is run.

    Args:
        path: A pipeline folder of diffusers, the encoder's own folder, a single file of
            Stable Diffusion as its authors released it, or a model folder of ours that
            has one, or that of its stage.
        part: Name of its folder in a pipeline; "text_encoder_2" is SDXL's second.
        variant: Variant of the weights in a folder, as "fp16"; None takes the plain
            ones, or the only ones.
        config: transformers' config of the network (a folder, a file, or its values)
            for a single file, which has none; None takes what the shapes say, and
            heads of 64.
        precision: Type that the network computes in, "float32" or "bfloat16"; the
            parameters are float32, whatever the file holds.

    Raises:
        ConfigError: If there is no such precision.
        CheckpointError: If there is no text encoder, or it is damaged or of a kind that
            is not implemented. One line.

    Examples:
        >>> from kdiff_jax import text
        >>> encoder = text.load(FOLDER, part="text_encoder")
        >>> encoder.module.num_positions
        77
    """
    parts.check_precision(precision)
    path = pathlib.Path(path).expanduser()
    for place in (path, path / "model"):
        if folder.is_ours(place):
            return _of_ours(place, precision)
    try:
        fields, named = _read(path, part, variant, config)
        fields["dtype"] = precision
        module = ClipText(**fields)
        ids = jax.ShapeDtypeStruct((1, module.num_positions), jnp.int32)
        params = parts.params(clip_text.leaves(named), module, ids)
    except CheckpointError as error:
        start = "" if str(path) in str(error) else f"{part}={str(path)!r}: "
        raise CheckpointError(f"{start}{error}") from error
    return Encoder(module, params)


def _of_ours(place: pathlib.Path, precision: str) -> Encoder:
    """The text encoder beside a model of ours."""
    spec = folder.spec_of(place)
    frozen = beside.read(place, spec)
    if spec.text is None or texts.ROLE not in frozen:
        raise CheckpointError(
            f"{place}: this model has no text encoder; give one of a stage that trains"
            " one, or a pipeline's folder"
        )
    return Encoder(
        spec.text.changed(dtype=precision).call(texts.make), frozen[texts.ROLE]
    )


def _read(path, part, variant, config) -> tuple[dict[str, Any], dict[str, Lazy]]:
    """(fields of the network, arrays under our names)."""
    if path.is_file():
        return _single_file(path, part, config)
    found, tensors = parts.read(
        parts.folder(path, part), stems=TRANSFORMERS, variant=variant
    )
    return _projected(clip_text.read_config(found), found, clip_text.named(tensors))


def _projected(fields, config, named) -> tuple[dict[str, Any], dict[str, Lazy]]:
    """The fields without a projection if neither the file nor its class has one."""
    if "proj" not in named and not clip_text.needs_projection(config):
        fields = fields | dict(projection=None)
    return fields, named


def _single_file(path, part, config) -> tuple[dict[str, Any], dict[str, Lazy]]:
    tensors, openclip = original.text_encoder(part, original.open_file(path))
    if not tensors:
        raise CheckpointError(
            f"no {part} in it (no {original.TEXT_ENCODERS[PART][0]}...); give the"
            " pipeline's folder, or the file with all networks"
        )
    named = clip_text.named(tensors)
    if openclip and part == PART:
        named = clip_text.without_last_block(named)
    if config is not None:
        found = parts.config(config, part)
        return _projected(clip_text.read_config(found), found, named)
    gelu = "exact" if openclip else "quick"
    return clip_text.of_shapes(named, gelu=gelu), named
