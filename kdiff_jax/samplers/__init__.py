"""Samplers: (denoise, z, y) -> x0. `make` knows them by the name of their file.

A sampler is built once, with its time grid; the grid has a fixed length, and the
network is compiled once inside one scan over it.
"""

import importlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from kdiff_jax import rng
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import ConfigError


class Sampler(NamedTuple):
    """A sampler with its settings bound.

    Attributes:
        sample: (denoise, z, y=None, *, keys=None, noise=None) -> x0. `denoise` is (x_t,
            t[B], y[B]) -> x0_hat; `z` f32[B, H, W, C] ~ N(0, I), scaled inside. A
            sampler that draws noise needs `keys`, Key[B], one per example, or `noise`,
            a function i -> f32[B, H, W, C] of the step; the others ignore both.
        nfe: Network evaluations per image.
        name: The name given to `make`.
    """

    sample: Callable[..., Any]
    nfe: int
    name: str


def step_noise(keys, noise, z) -> Callable[[Any], Any]:
    """i -> N(0, 1) of z's shape for step i: `noise` when given, else drawn from `keys`.

    Raises:
        ConfigError: If both are None.
    """
    if noise is not None:
        return noise
    if keys is None:
        raise ConfigError("keys=None: this sampler draws noise; give one key per image")

    def draw(i):
        now = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        return rng.normal(now, "sampler", z.shape[1:])

    return draw


def names() -> tuple[str, ...]:
    """The samplers that `make` knows."""
    files = pathlib.Path(__file__).parent.glob("*.py")
    return tuple(sorted(f.stem for f in files if not f.stem.startswith("_")))


def make(name: str, *, process: Process, **keywords) -> Sampler:
    """The sampler `name`, one of `names()`, for `process`.

    Args:
        name: A file of this folder.
        process: The process that the denoiser was trained on.
        keywords: Those of the sampler's own `make`.
    """
    return make_function(name)(process=process, **keywords)


def make_function(name: str) -> Callable[..., Sampler]:
    """What `make` calls; its keywords and defaults are the sampler's settings."""
    if name not in names():
        raise ConfigError(f"sampler={name!r}: unknown; choose one of {names()}")
    return importlib.import_module(f"kdiff_jax.samplers.{name}").make
