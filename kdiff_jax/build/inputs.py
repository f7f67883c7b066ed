"""A recipe -> what it reads of files: images or their latents, table, autoencoder."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kdiff_jax import domain, latent
from kdiff_jax.build import prompts
from kdiff_jax.build.prompts import check_fields
from kdiff_jax.build.resolved import Recipe
from kdiff_jax.data import class_prompts, conditions, images
from kdiff_jax.data import latents as caches
from kdiff_jax.encoders import latents
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.interop import built, trees


def load_images(recipe: Recipe) -> images.Images:
    """The data set of the recipe, checked against the model's shape and conditions."""
    return _check_classes(recipe, _prompted(recipe, load_labelled(recipe)))


def load_labelled(recipe: Recipe) -> images.Images:
    """The data set with its own labels, checked against the model's image shape."""
    found = images.load(recipe.data.name, **recipe.data.keywords)
    shape = recipe.space.pixel_shape
    if found.shape != shape:
        raise ConfigError(
            f"data {found.name!r} has images of {found.shape}, those of the model have"
            f" {shape} (model.image_shape); set data.size or data.channels, or the"
            " model's shape"
        )
    if recipe.templates and found.num_classes != len(recipe.class_names):
        raise ConfigError(
            f"data.class_names={list(recipe.class_names)}: are"
            f" {len(recipe.class_names)}, and data {found.name!r} has"
            f" {found.num_classes} classes; name each, in the order of the labels"
        )
    return found


def _prompted(recipe: Recipe, found: images.Images) -> images.Images:
    """The same with the numbers of prompts as labels, where templates make such."""
    if not (num := len(recipe.templates)):
        return found
    labels = class_prompts.numbers(found.labels, num, recipe.seed)
    return found._replace(labels=labels, num_classes=num * len(recipe.class_names))


def _check_classes(recipe: Recipe, found: images.Images) -> images.Images:
    """The same set, if it has the classes that the model is asked for."""
    num_classes = recipe.num_classes
    if recipe.brings_latents:  # what an image is conditioned on is the cache's matter
        return found
    # Of a table there may be rows that no image has.
    has_rows = recipe.conditions.dim and 0 < found.num_classes <= num_classes
    if num_classes and found.num_classes != num_classes and not has_rows:
        raise ConfigError(
            f"data {found.name!r} has {found.num_classes} classes, model.num_classes is"
            f" {num_classes}; make them equal, or set model.num_classes=0"
        )
    return found


def readers(recipe: Recipe) -> dict[str, Callable[[], Any]]:
    """Key of the section `data` -> what reads that, of what no stage makes."""
    found: dict[str, Callable[[], Any]] = {"path": lambda: load_images(recipe)}
    key = "text_encoder" if recipe.spec.text else "conditions"
    found[key] = lambda: load_table(recipe)
    if "autoencoder" not in recipe.made:
        found["autoencoder"] = lambda: load_autoencoder(recipe)
    if recipe.brings_latents:
        found["latents"] = lambda: load_latents(recipe)
    return found


def load_table(recipe: Recipe) -> dict[str, Any]:
    """Table of conditions, and the encoder that reads it, where there are such.

    Raises:
        CheckpointError: If the text encoder is missing, or none that the model names.
        ConfigError: If only one of a file and what reads it is given.
        DataError: If the table is missing, or no table for the model.
    """
    return prompts.load(recipe) if recipe.spec.text else _table(recipe)


def load_autoencoder(recipe: Recipe) -> dict[str, Any]:
    """The autoencoder, by its role; {} without.

    Raises:
        CheckpointError: If it is missing, or none that the model names.
        ConfigError: If only one of a file and what reads it is given.
    """
    path, named = recipe.autoencoder, recipe.spec.autoencoder
    if bool(path) != bool(named):
        raise ConfigError(
            f"data.autoencoder={path!r}, model.autoencoder={named}: latents need both,"
            " the folder of the weights and the fields of the network; give both, or"
            " none"
        )
    if named is None:
        return {}
    found = latent.load(path)
    shapes = trees.flatten(latents.shapes(named))
    leaves = trees.flatten(found.params)
    where = f"data.autoencoder={path!r}"
    built.compare(leaves, {k: v.shape for k, v in shapes.items()}, where)
    check_autoencoder(recipe, found.module, found.scaling_factor, found.shift_factor)
    return {latents.ROLE: found.params}


def check_autoencoder(recipe: Recipe, found, scale: float, shift: float) -> None:
    """Refuses an autoencoder that is another than `model.autoencoder` says.

    Args:
        recipe: The recipe; it has one.
        found: The module that its file has, or its stage trains.
        scale: Scaling factor of its latents.
        shift: Shift factor of its latents.

    Raises:
        ConfigError: Names the first field that differs.
    """
    assert recipe.spec.autoencoder is not None
    module, path = recipe.spec.autoencoder.call(latents.make), recipe.autoencoder
    check_fields(module, found, "model.autoencoder", path)
    for name, has in (("scaling_factor", scale), ("shift_factor", shift)):
        want = getattr(module, name)
        if abs(want - has) > 1e-6 * max(1.0, abs(has)):
            raise ConfigError(
                f"model.autoencoder.{name}={want}: {path} has {has}; set that"
            )


def _table(recipe: Recipe) -> dict[str, Any]:
    path, asked = recipe.table, recipe.conditions
    if bool(path) != bool(asked.dim):
        raise ConfigError(
            f"model.cond_dim={asked.dim}, data.conditions={path!r}: vectors need both,"
            " their length and the .npy file of them, and labels none; give both or"
            " none"
        )
    return {domain.TABLE: conditions.read(path, asked)} if path else {}


def load_latents(recipe: Recipe) -> images.Images:
    """The cached moments of the recipe's images, as a set to train on.

    Raises:
        ConfigError: If they are no latents of the model's, or of its autoencoder.
        DataError: If the cache is missing, damaged, or not finished.
    """
    path, space = recipe.latents, recipe.space
    if not space.moments:
        raise ConfigError(
            f"data.latents={path!r}: images of this model live in"
            f" model.space={recipe.spec.space!r}, without an autoencoder; leave it out"
        )
    vae = latent.load(recipe.autoencoder).sha256
    found = caches.open_latents(path, vae=vae)
    flip = bool(recipe.augmented.get("flip"))
    if flip and found.num_views == 1:
        raise ConfigError(
            f"data.flip=True: a flipped latent is not the latent of the flipped image,"
            f" and data.latents={path!r} has none of those; make a cache with --flip,"
            " or set data.flip=False"
        )
    height, width, _ = space.shape
    want = (height, width, space.moments)
    if found.shape != want:
        raise ConfigError(
            f"data.latents={path!r}: has moments of {found.shape}, the model reads"
            f" {want} (model.image_shape); make a cache of images of its size"
        )
    asked, num_views = recipe.num_classes, found.num_views if flip else 1
    known = len(recipe.class_names) or asked
    if asked and int(found.labels.max(initial=0)) >= known:
        raise DataError(
            f"data.latents={path!r}: has conditions up to {found.labels.max()}, and"
            f" {'data.class_names' if recipe.templates else 'model.num_classes'} has"
            f" {known}; make them fit"
        )
    whole = images.Images(
        read=lambda indices: found.read(indices)[caches.MOMENTS],
        labels=found.labels if asked else np.zeros_like(found.labels),
        num=found.num,
        shape=want,
        num_classes=asked,
        in_memory=_whole(found, num_views),
        name=found.name,
        num_views=num_views,
    )
    return _prompted(recipe, whole)


def _whole(found: caches.Latents, num_views: int) -> np.ndarray | None:
    """All moments, of a set that is small enough to be kept on the device."""
    num = num_views * found.num
    if 2 * num * int(np.prod(found.shape)) > images.MAX_IN_MEMORY:
        return None
    return found.read(np.arange(num))[caches.MOMENTS]
