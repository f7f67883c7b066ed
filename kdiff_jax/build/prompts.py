"""A recipe's prompts as token ids, and the encoder that reads them."""

import dataclasses
from typing import Any

import numpy as np

from kdiff_jax import domain, text
from kdiff_jax.build.resolved import Recipe
from kdiff_jax.data import captions
from kdiff_jax.data import latents as caches
from kdiff_jax.encoders import texts
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.interop import built, trees

IDS = "ids"  # name of a cache's tokens


def load(recipe: Recipe) -> dict[str, Any]:
    """The table of token ids, last that of no text, and the encoder, by role.

    Raises:
        CheckpointError: If tokenizer or encoder are missing, or none that the model
            names.
        ConfigError: If there are no prompts, or as many as the model has not.
        DataError: If the prompts are missing or damaged.
    """
    folder, spec = recipe.text_encoder, recipe.spec
    if not folder:
        raise ConfigError(
            "data.text_encoder='': model.text needs the pipeline folder of its"
            " tokenizer and weights; give it"
        )
    assert spec.text is not None
    encoder = text.load(folder, precision="float32")
    leaves = trees.flatten(encoder.params)
    shapes = {k: v.shape for k, v in trees.flatten(texts.shapes(spec.text)).items()}
    built.compare(leaves, shapes, f"data.text_encoder={folder!r}")
    check_fields(spec.text.call(texts.make), encoder.module, "model.text", folder)
    tokenizer = text.tokenizer(folder)
    ids, place = _ids(recipe, tokenizer)
    rows = np.concatenate([ids, tokenizer([""])]).astype(np.uint16)
    rows, cut = rows[:, : spec.cond_length], rows[:, spec.cond_length :]
    if (long := np.flatnonzero((cut != tokenizer.pad).any(axis=1))).size:
        raise ConfigError(
            f"{place}: prompt {long[0]} has more than model.cond_length="
            f"{spec.cond_length} tokens; raise that, up to {tokenizer.length}"
        )
    if rows.shape != (want := (spec.num_classes + 1, spec.cond_length)):
        raise ConfigError(
            f"{place}: {len(ids)} prompts of {rows.shape[1]} tokens, the model has"
            f" {want[0] - 1} of {want[1]}; set model.num_classes and model.cond_length"
        )
    return {domain.TABLE: rows, texts.ROLE: encoder.params}


def check_fields(wanted, found, section: str, path: str) -> None:
    """Refuses fields of a network that are others than its file's: no shape shows them.

    Raises:
        ConfigError: Names the first, and what the file has.
    """
    for field in dataclasses.fields(found):
        if field.name in ("parent", "name", "dtype", "remat"):
            continue
        want, has = getattr(wanted, field.name), getattr(found, field.name)
        if want != has:
            raise ConfigError(
                f"{section}.{field.name}={want!r}: {path} has {has!r}; set that"
            )


def _ids(recipe: Recipe, tokenizer) -> tuple[np.ndarray, str]:
    """(token ids of the prompts, option that they come from)."""
    if path := recipe.table:
        place = f"data.conditions={path!r}"
        if not path.endswith(".txt"):
            raise ConfigError(f"{place}: with model.text a .txt of prompts, one a line")
        found = captions.read(path)
        ids = np.asarray(tokenizer([*found.captions[0]]))
        if recipe.brings_latents:
            _check_same(ids, recipe, place)
        return ids, place
    if not recipe.brings_latents:
        raise ConfigError(
            "data.conditions='', data.latents='': model.text needs prompts; give a"
            " .txt, one a line, or a cache of images with captions"
        )
    place = f"data.latents={recipe.latents!r}"
    cache = caches.open_latents(recipe.latents)
    if IDS not in cache.tokens:
        raise DataError(f"{place}: has no captions; make a cache with --data that has")
    made_by = cache.facts.get("tokenizers", {}).get(IDS)
    if made_by not in (None, tokenizer.sha256):
        raise DataError(
            f"{place}: was made with another tokenizer than that of"
            f" data.text_encoder={recipe.text_encoder!r}; make it again"
        )
    return cache.tokens[IDS], place


def _check_same(ids: np.ndarray, recipe: Recipe, place: str) -> None:
    """Prompts beside a cache of captions begin with those: images name them by number.

    Raises:
        ConfigError: If they do not.
    """
    tokens = caches.open_latents(recipe.latents).tokens.get(IDS)
    if tokens is not None and not np.array_equal(tokens, ids[: len(tokens)]):
        raise ConfigError(
            f"{place}: the captions of data.latents={recipe.latents!r} must be its"
            " first lines, in their order; put them there, or leave it out"
        )
