"""Samplers: (denoise, z, y) -> x0. `make` knows them by the name of their file.

A sampler is built once, with its time grid; the grid has a fixed length, and the
network is compiled once inside one scan over it.
"""

import importlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import ConfigError


class Sampler(NamedTuple):
    """A sampler with its settings bound.

    Attributes:
        sample: (denoise, z, y, *, keys=None) -> x0. `denoise` is (x_t, t[B], y[B]) ->
            x0_hat; `z` f32[B, H, W, C] ~ N(0, I), scaled inside; `keys` Key[B], one per
            example, needed by samplers that draw noise.
        nfe: Network evaluations per image.
        name: The name given to `make`.
    """

    sample: Callable[..., Any]
    nfe: int
    name: str


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
    if name not in names():
        raise ConfigError(f"sampler={name!r}: unknown; choose one of {names()}")
    module = importlib.import_module(f"kdiff_jax.samplers.{name}")
    return module.make(process=process, **keywords)
