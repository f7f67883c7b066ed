"""All networks of a folder of Stable Diffusion, and the programs that they share."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from kdiff_jax import interop, latent, samplers
from kdiff_jax.diffusion import guidance as guidances
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.formats.clip_tokenizer import Tokenizer
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop.model import Model
from kdiff_jax.latent import Autoencoder
from kdiff_jax.named import Named
from kdiff_jax.text import encoder as encoders
from kdiff_jax.text.encoder import Encoder

ADDED = (
    "added_dim"  # field of networks that read pooled texts and sizes as well: SDXL's
)
NUM_SIZES = 6  # height, width, crop, crop, height, width


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """Networks between prompts and images; see `generate`.

    Attributes:
        model: Denoiser of latents, with its process and sampler.
        autoencoder: Networks between latents and images.
        tokenizers: One, or two of SDXL.
        encoders: Text encoders of these.
        zeros_are_none: Whether zeros stand for no text, in place of an empty prompt.

    Examples:
        >>> from kdiff_jax import text
        >>> pipe = text.pipeline(FOLDER)
        >>> context = pipe.read(["a cat", "a dog"], size=(64, 64))
        >>> pipe.reads_sizes, context.shape[:2]
        (False, (2, 77))
    """

    model: Model
    autoencoder: Autoencoder
    tokenizers: tuple[Tokenizer, ...]
    encoders: tuple[Encoder, ...]
    zeros_are_none: bool = False

    @property
    def reads_sizes(self) -> bool:
        """Whether the denoiser reads more than text states, as SDXL's does."""
        return bool(self.model.spec.network.keywords.get(ADDED))

    def read(self, prompts: Sequence, size: tuple[int, int]) -> Any:
        """What the denoiser reads of prompts.

        Args:
            prompts: Texts; what is too long is cut.
            size: Height and width of the images, pixels, which SDXL is told.

        Returns:
            f32[B, L, D], or a dictionary of `context`, `text_embeds` and `time_ids`.
        """
        both = zip(self.encoders, self.tokenizers, strict=True)
        states = [encoder.apply(tokens(prompts)) for encoder, tokens in both]
        if not self.reads_sizes:
            return states[0].hidden
        context = jnp.concatenate([one.penultimate for one in states], axis=-1)
        sizes = jnp.float32([*size, 0, 0, *size])
        return dict(
            context=context,
            text_embeds=states[-1].projected,
            time_ids=jnp.broadcast_to(sizes, (len(prompts), NUM_SIZES)),
        )

    def no_text(self, like: Any) -> Any:
        """Zeros in the place of texts, with the sizes as they are."""
        return {k: v if k == "time_ids" else jnp.zeros_like(v) for k, v in like.items()}

    def sampler(self, sampler: Named, guided: bool, among: tuple) -> Callable[..., Any]:
        """(params, y, z, keys, guidance) -> latents, compiled once a shape.

        Args:
            sampler: A sampler by name.
            guided: Whether the strength of guidance counts; without, a step needs half
                the evaluations.
            among: Interval and number of channels, see `guidance.guide`.
        """
        return _program(self.model.net, self.model.process, sampler, guided, among)


@functools.lru_cache(maxsize=32)
def _program(net, process, sampler: Named, guided: bool, among: tuple):
    made = sampler.call(samplers.make, process=process)

    @jax.jit
    def run(params, y, z, keys, scale: Array):
        def denoise(x_t, t, y):
            told = {}
            if net.guidance_range:
                told = dict(guidance=jnp.broadcast_to(scale, (len(x_t),)))
            return net.apply(params, x_t, t, y, **told)

        if guided and not net.guidance_range:
            interval, channels = among
            options: dict[str, Any] = dict(process=process, interval=interval)
            options |= dict(channels=channels, skip=True)
            return made.sample(
                guidances.guide(denoise, scale, **options), z, y, keys=keys
            )
        return made.sample(denoise, z, y, keys=keys)

    return run


def pipeline(
    path: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Pipeline:
    """The networks of a folder; no code of it is run.

    Args:
        path: A pipeline folder of diffusers, or a single file of Stable Diffusion as
            its authors released it.
        tokenizer: Folder with a tokenizer, for a single file, which has none.
        precision: Type that the networks compute in, "float32" or "bfloat16";
            parameters are float32.

    Raises:
        CheckpointError: If a part is missing, damaged, or of a kind that is not
            implemented, or the denoiser reads no texts. One line.

    Examples:
        >>> from kdiff_jax import text
        >>> pipe = text.pipeline(FOLDER)
        >>> pipe.model.spec.network.name, len(pipe.encoders)
        ('unet2d_condition', 1)
    """
    path = pathlib.Path(path).expanduser()
    model = interop.load(path, precision=precision)
    if not model.spec.cond_length:
        raise CheckpointError(
            f"{path}: its denoiser, {model.spec.network.name}, reads no texts; make its"
            " images by interop.load(...).sampler(), or `sample`"
        )
    added = bool(model.spec.network.keywords.get(ADDED))
    numbers = ("", "_2") if added else ("",)
    if added and path.is_dir() and not (path / "text_encoder").is_dir():
        raise CheckpointError(
            f"{path}: has no text_encoder/, as SDXL's refiner; there is SDXL's base"
        )
    home = path if tokenizer is None else tokenizer
    index = files.read_json(path / files.INDEX) if path.is_dir() else {}
    return Pipeline(
        model,
        latent.load(path, precision=precision),
        tuple(clip_tokenizer.load(home, f"tokenizer{n}") for n in numbers),
        tuple(
            encoders.load(path, f"text_encoder{n}", precision=precision)
            for n in numbers
        ),
        zeros_are_none=bool(index.get("force_zeros_for_empty_prompt", added)),
    )


def of(folder: Any, precision: str | None) -> Pipeline:
    """A pipeline, or that of a folder; the last folder is kept in memory.

    Raises:
        ConfigError: If a precision is asked of networks that are loaded.
    """
    if isinstance(folder, Pipeline):
        if precision is not None:
            raise ConfigError(
                f"precision={precision!r}: is said where the networks are loaded,"
                " text.pipeline(FOLDER, precision=...)"
            )
        return folder
    path = pathlib.Path(folder).expanduser().absolute()
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [one.stat() for one in inside if one.is_file()]
    stamp = tuple((one.st_mtime_ns, one.st_size) for one in stats)
    return _loaded(path, stamp, precision or "float32")


@functools.lru_cache(maxsize=1)
def _loaded(path: pathlib.Path, stamp: tuple, precision: Any) -> Pipeline:
    del stamp  # another one is another folder by the same name
    return pipeline(path, precision=precision)
