"""Images of prompts."""

import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from kdiff_jax import rng
from kdiff_jax.diffusion import guidance as guidances
from kdiff_jax.domain import Prompt
from kdiff_jax.errors import ConfigError, NumericsError
from kdiff_jax.named import Named, frozen
from kdiff_jax.text import networks
from kdiff_jax.text.networks import Pipeline
from kdiff_jax.train import generate as images_of_seeds


def generate(
    folder: str | os.PathLike | Pipeline,
    prompts: str | Sequence,
    negative_prompts: str | Sequence | None = None,
    *,
    num_steps: int | None = None,
    guidance: float | int = 7.5,
    z: Array | np.ndarray | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    sampler: str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guidance_channels: int | None = None,
    precision: str | None = None,
    one_by_one: bool = False,
    **options,
) -> tuple[Array, Array]:
    """(latents f32[B, h, w, D] as the denoiser has them, images f32[B, H, W, 3]).

    Images are in [-1, 1] but for overshoots, which are not clipped. Calls with as many
    prompts and the same sampler, size and steps share one compiled program, whatever
    the prompts and the strength of guidance.

    Args:
        folder: A pipeline folder of diffusers, which stays in memory until another one
            is named, or what `text.pipeline` has loaded.
        prompts: Texts, one for each image.
        negative_prompts: What guidance leads away from: one text, or one for each
            image; None is the empty text, or zeros for SDXL.
        num_steps: Number of sampling steps; None for the sampler's own.
        guidance: Strength of classifier-free guidance; 1 is none, and needs half the
            evaluations.
        z: f32[B, h, w, D] ~ N(0, 1), the noise of the latents before a sampler scales
            it; None draws it by `seed`.
        seed: Seed of the noise: image i has the same in every batch.
        size: Height and width of the images in pixels; None for those of `z`, or those
            that the denoiser was trained on.
        sampler: A name of `samplers`; None for the folder's own scheduler.
        guidance_interval: Noise levels sigma / alpha that are guided; None for all.
        guidance_channels: How many channels are guided, the first ones; None for all.
        precision: Type that the networks compute in; None is float32.
        one_by_one: Decodes one image at a time, for large ones.
        **options: Further keywords of the sampler.

    Raises:
        CheckpointError: If the folder is no such pipeline.
        ConfigError: If prompts, noise, sizes or options do not fit.
        NumericsError: If an image is not finite.

    Examples:
        >>> from kdiff_jax import text
        >>> options = dict(sampler="ddim", num_steps=2, guidance=1.0, size=(64, 64))
        >>> latents, images = text.generate(FOLDER, ["a cat"], **options)
        >>> images.shape
        (1, 64, 64, 3)
    """
    if guidance_interval is not None:
        guidance_interval = _interval(guidance_interval)
    pipe = networks.of(folder, precision)
    prompts = _texts(prompts)
    negatives = _negatives(negative_prompts, len(prompts))
    _check_guidance(guidance, pipe)
    z, keys = _noise(pipe, z, seed, size, len(prompts))
    factor = pipe.autoencoder.module.factor
    pixels = z.shape[1] * factor, z.shape[2] * factor
    asked = pipe.model.sampler(sampler, num_steps, **options)
    named = Named(asked.name, frozen(_without_guidance(asked.options)))
    guided = guidance != 1
    y = cond = pipe.read(prompts, pixels)
    if guided:
        zeros = negative_prompts is None and pipe.zeros_are_none
        null = pipe.no_text(cond) if zeros else pipe.read(negatives, pixels)
        y = Prompt(cond, null)
    run = pipe.sampler(named, guided, (guidance_interval, guidance_channels))
    params = pipe.model.params
    latents = run(params, y, z, keys, jnp.float32(guidance))
    unscaled = jnp.asarray(pipe.autoencoder.unscale(latents))
    images = pipe.autoencoder.decode(unscaled, one_by_one=one_by_one)
    finite = np.isfinite(np.asarray(images)).all(axis=(1, 2, 3))
    if not finite.all():
        bad = int(np.argmin(finite))
        raise NumericsError(
            f"image {bad} is not finite ({prompts[bad][:40]!r}); take less guidance, or"
            " precision=float32"
        )
    return latents, images


def _interval(given: Any) -> tuple[float, float]:
    ends = list(given) if isinstance(given, list | tuple) else []
    if len(ends) != 2 or not all(isinstance(x, int | float) for x in ends):
        raise ConfigError(
            f"guidance_interval={_shown(given)}: must be two numbers, (low, high)"
        )
    return float(ends[0]), float(ends[1])


def _texts(prompts: Any) -> list:
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, Sequence) or not len(prompts):
        raise ConfigError(
            f"prompts={_shown(prompts)}: must be a text, or a list of one or more"
        )
    return list(prompts)  # the tokenizer refuses what is no text


def _negatives(prompts: Any, num: int) -> list:
    if prompts is None or isinstance(prompts, str):
        return [prompts or ""] * num
    if not isinstance(prompts, Sequence) or len(prompts) != num:
        raise ConfigError(
            f"negative_prompts={_shown(prompts)}: must be one text, or one for each of"
            f" {num} prompts"
        )
    return list(prompts)


def _check_guidance(guidance: Any, pipe: Pipeline) -> None:
    if isinstance(guidance, bool) or not isinstance(guidance, float | int | np.number):
        raise ConfigError(f"guidance={_shown(guidance)}: must be a number; 1 is none")
    if not 0 <= guidance < np.inf:
        raise ConfigError(f"guidance={guidance}: must be 0 or more; 1 is none")
    if levels := pipe.model.net.guidance_range:
        guidances.check_told(float(guidance), levels)


def _noise(pipe: Pipeline, z: Any, seed: Any, size: Any, num: int):
    """(z, keys) of the images."""
    *sides, channels = pipe.model.image_shape
    factor = pipe.autoencoder.module.factor
    if size is not None:
        whole = np.shape(size) == (2,) and all(
            isinstance(n, int) and n > 0 and n % factor == 0 for n in size
        )
        if not whole:
            raise ConfigError(
                f"size={_shown(size)}: must be height and width, multiples of {factor}"
            )
        sides = [n // factor for n in size]
    root, places = rng.checked_seed(seed), np.arange(num, dtype=np.int32)
    shape = (*sides, channels)
    drawn, keys = images_of_seeds.noise(root, places, shape, "sample")
    if z is None:
        return drawn, keys
    fits = np.ndim(z) == 4 and (np.shape(z)[0], np.shape(z)[3]) == (num, channels)
    if not fits or (size is not None and np.shape(z)[1:3] != tuple(sides)):
        given = sides if size is not None else ["h", "w"]
        expected = ", ".join(map(str, (num, *given, channels)))
        raise ConfigError(
            f"z={list(np.shape(z))}: must be noise f32[{expected}] of {num} prompts,"
            " channels last"
        )
    return jnp.asarray(z, jnp.float32), keys


def _without_guidance(options):
    return {k: v for k, v in options.items() if not k.startswith("guidance")}


def _shown(value: Any) -> str:
    return repr(value)[:60]
