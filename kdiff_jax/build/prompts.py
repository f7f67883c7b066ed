"""A recipe's prompts as token ids, and the encoder that reads them.

Where a stage trains the encoder, the tokenizer is made of these prompts, and lies in
the folder of that stage from its beginning on.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from kdiff_jax import domain, text
from kdiff_jax.build.resolved import Recipe
from kdiff_jax.data import captions, class_prompts
from kdiff_jax.data import latents as caches
from kdiff_jax.encoders import texts
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.formats import clip_tokenizer, clip_training
from kdiff_jax.formats.clip_tokenizer import Tokenizer
from kdiff_jax.interop import beside, built, trees

IDS = "ids"  # name of a cache's tokens


def load(recipe: Recipe) -> dict[str, Any]:
    """The table of token ids, last that of no text, and the encoder, by role.

    One that a stage trains is not there yet: see `load_encoder`.

    Raises:
        CheckpointError: If tokenizer or encoder are missing, or none that the model
            names.
        ConfigError: If there are no prompts, or as many as the model has not.
        DataError: If the prompts are missing or damaged.
    """
    if not recipe.text_encoder:
        raise ConfigError(
            "data.text_encoder='': model.text needs the pipeline folder of its"
            " tokenizer and weights; give it, or name the stage that trains them"
        )
    table = {domain.TABLE: _table(recipe)}
    return table if texts.ROLE in recipe.made else table | load_encoder(recipe)


def load_encoder(recipe: Recipe) -> dict[str, Any]:
    """The encoder that `data.text_encoder` names, by its role.

    Raises:
        CheckpointError: If it is missing, or none that the model names.
        ConfigError: If it has other fields than the model says.
    """
    folder, spec = recipe.text_encoder, recipe.spec
    assert spec.text is not None
    encoder = text.load(folder, precision="float32")
    leaves = trees.flatten(encoder.params)
    shapes = {k: v.shape for k, v in trees.flatten(texts.shapes(spec.text)).items()}
    built.compare(leaves, shapes, f"data.text_encoder={folder!r}")
    check_fields(spec.text.call(texts.make), encoder.module, "model.text", folder)
    return {texts.ROLE: encoder.params}


def _table(recipe: Recipe) -> np.ndarray:
    """uint16[num_classes + 1, cond_length], token ids."""
    spec, tokenizer = recipe.spec, _tokenizer(recipe)
    ids, place = _ids(recipe, tokenizer)
    rows = np.concatenate([ids, tokenizer([""])]).astype(np.uint16)
    rows, cut = rows[:, : spec.cond_length], rows[:, spec.cond_length :]
    if (long := np.flatnonzero((cut != tokenizer.pad).any(axis=1))).size:
        _refuse_long(recipe, f"{place}: prompt {long[0]}", tokenizer)
    if rows.shape != (want := (spec.num_classes + 1, spec.cond_length)):
        raise ConfigError(
            f"{place}: {len(ids)} prompts of {rows.shape[1]} tokens, the model has"
            f" {want[0] - 1} of {want[1]}; set model.num_classes and model.cond_length"
        )
    return rows


def _refuse_long(recipe: Recipe, what: str, tokenizer: Tokenizer) -> None:
    way_out = f"raise that, up to {tokenizer.length}"
    if texts.ROLE in recipe.made:
        way_out = "raise that and model.text.num_positions, or shorten it"
    raise ConfigError(
        f"{what} has more than model.cond_length={recipe.spec.cond_length} tokens;"
        f" {way_out}"
    )


def keep_tokenizer(recipe: Recipe) -> None:
    """Writes the tokenizer of an encoder that is trained to its stage's folder.

    What is there stays.
    """
    if not _is_there(recipe):
        _trained(recipe).write(pathlib.Path(recipe.text_encoder))


def _tokenizer(recipe: Recipe) -> Tokenizer:
    if texts.ROLE in recipe.made and not _is_there(recipe):
        return _trained(recipe).tokenizer()
    folder = pathlib.Path(recipe.text_encoder).expanduser()
    return text.tokenizer(beside.with_tokenizer(folder))


def _is_there(recipe: Recipe) -> bool:
    folder = pathlib.Path(recipe.text_encoder) / clip_tokenizer.PART
    return (folder / clip_tokenizer.VOCAB).is_file()


def _trained(recipe: Recipe) -> clip_training.Trained:
    """A tokenizer that is made of the recipe's prompts.

    Raises:
        ConfigError: If there are none, or the encoder has too few tokens.
    """
    prompts, _ = _prompts(recipe)
    assert recipe.spec.text is not None
    module = recipe.spec.text.call(texts.make)
    about = dict(vocab_size=module.vocab_size, length=module.num_positions)
    try:
        return clip_training.train(prompts, **about)
    except ConfigError as error:
        raise ConfigError(f"model.text.{error}") from error


def _prompts(recipe: Recipe) -> tuple[tuple[str, ...], str]:
    """(prompts, option that they come from); () where a cache has their tokens.

    Raises:
        ConfigError: If there are none, or two options name some.
        DataError: If their file is missing or damaged.
    """
    path = recipe.table
    if recipe.templates and path:
        raise ConfigError(
            f"data.conditions={path!r}: prompts are made of data.templates; leave one"
            " of them out"
        )
    if recipe.templates:
        about = recipe.class_names, recipe.templates
        return class_prompts.texts(*about), "data.templates"
    if path:
        place = f"data.conditions={path!r}"
        if not path.endswith(".txt"):
            raise ConfigError(f"{place}: with model.text a .txt of prompts, one a line")
        return captions.read(path).captions[0], place
    if not recipe.brings_latents or texts.ROLE in recipe.made:
        raise ConfigError(
            "data.conditions='', data.templates=(): model.text needs prompts; give a"
            " .txt, one a line, data.class_names and data.templates, or"
            " data.text_encoder=FOLDER with a cache of images with captions"
        )
    return (), f"data.latents={recipe.latents!r}"


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


def _ids(recipe: Recipe, tokenizer: Tokenizer) -> tuple[np.ndarray, str]:
    """(token ids of the prompts, option that they come from)."""
    prompts, place = _prompts(recipe)
    if prompts:
        ids, length = np.asarray(tokenizer([*prompts])), recipe.spec.cond_length
        if (long := beside.too_long(tokenizer, prompts, length)).size:
            _refuse_long(recipe, f"{place}: prompt {long[0]}", tokenizer)
        if recipe.table and recipe.brings_latents:
            _check_same(ids, recipe, place)
        return ids, place
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
