"""Images to latents and back, by the autoencoder in a folder of Stable Diffusion.

    vae = latent.load(FOLDER)
    mean, logvar = vae.encode(images)
    images = vae.decode(z)

Denoisers read `vae.scale(z)`, which is z times `vae.scaling_factor`.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax import sealed
from kdiff_jax.encoders import autoencoder_kl, tiles
from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import autoencoder, autoencoder_export, original, parts, trees
from kdiff_jax.interop.diffusers_files import CONFIG
from kdiff_jax.types import Params

log = logging.getLogger(__name__)

PART = "vae"
SDXL_SCALING_FACTOR = 0.13025  # its single file does not say it


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoder:
    """A frozen autoencoder.

    Attributes:
        module: The network.
        params: Its parameters, float32.
        scaling_factor: What latents are multiplied by before a denoiser reads them.
        shift_factor: What is taken from them before that.
        sample_size: Side of the images it was trained on, in pixels; None where nothing
            says it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import latent
        >>> vae = latent.load(FOLDER)
        >>> images = jnp.zeros((1, 16, 16, 3))
        >>> mean, logvar = vae.encode(images)
        >>> latents = vae.scale(mean)  # as denoisers read them
        >>> vae.decode(vae.unscale(latents)).shape
        (1, 16, 16, 3)
        >>> vae.save("copy")
        >>> latent.load("copy").sha256 == vae.sha256
        True
    """

    module: AutoencoderKL
    params: Params
    scaling_factor: float
    shift_factor: float = 0.0
    sample_size: int | None = None

    def encode(
        self,
        images: Array | np.ndarray,
        *,
        tile_size: int | None = None,
        one_by_one: bool = False,
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        """Mean and log-variance of the latents, not scaled.

        Args:
            images: f32[B, H, W, 3], images in [-1, 1]; the sides are multiples of
                `module.factor` (8 for Stable Diffusion).
            tile_size: Side in pixels of overlapping tiles that larger images are cut
                into, to need less memory; the result is near the whole image's, not
                equal. None takes images whole.
            one_by_one: Takes one image of the batch at a time, for the same result.

        Raises:
            ConfigError: If the images or tiles do not fit.
        """
        images = jnp.asarray(images)
        channels, factor = self.module.in_channels, self.module.factor
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ConfigError(
                f"images={images.shape}: must be [B, H, W, {channels}]; put channels"
                " last"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ConfigError(
                f"images={images.dtype}: must be float32 in [-1, 1]; divide bytes by"
                " 127.5 and take 1"
            )
        if images.shape[1] % factor or images.shape[2] % factor:
            raise ConfigError(
                f"images={images.shape}: sides must be multiples of {factor}; crop or"
                " resize them"
            )
        sides = None if tile_size is None else self._tile(tile_size)
        run = functools.partial(self._encode, self.params)
        moments = _by_parts(run, images.astype(jnp.float32), sides, one_by_one)
        return autoencoder_kl.split(moments)

    def decode(
        self,
        z: Array | np.ndarray,
        *,
        tile_size: int | None = None,
        one_by_one: bool = False,
    ) -> Float[Array, "B H W C"]:
        """Images of latents, in [-1, 1] but for overshoots, which are not clipped.

        Args:
            z: f32[B, h, w, D], latents that are not scaled; see `unscale`.
            tile_size: See `encode`; in pixels here, too.
            one_by_one: See `encode`.

        Raises:
            ConfigError: If the latents or tiles do not fit.
        """
        z = jnp.asarray(z)
        channels = self.module.latent_channels
        if z.ndim != 4 or z.shape[-1] != channels:
            raise ConfigError(
                f"z={z.shape}: must be latents [B, H, W, {channels}]; put channels last"
            )
        sides = None
        if tile_size is not None:
            pixels, side = self._tile(tile_size)
            sides = side, pixels
        run = functools.partial(self._decode, self.params)
        return _by_parts(run, z.astype(jnp.float32), sides, one_by_one)

    def scale(self, z: Array | np.ndarray) -> Array | np.ndarray:
        """Latents as denoisers read them: (z - shift_factor) scaling_factor.

        Args:
            z: f32[B, h, w, D], latents of `encode`.
        """
        return (z - self.shift_factor) * self.scaling_factor

    def unscale(self, latents: Array | np.ndarray) -> Array | np.ndarray:
        """The inverse of `scale`.

        Args:
            latents: f32[B, h, w, D], as denoisers read them.
        """
        return latents / self.scaling_factor + self.shift_factor

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of network, parameters and factors, wherever the files lie."""
        facts = [self._fields, self.scaling_factor, self.shift_factor]
        found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        arrays = jax.device_get(trees.flatten(self.params))
        found.update(sealed.digest_of(arrays).encode())
        return found.hexdigest()

    @property
    def _fields(self) -> dict[str, Any]:
        """Fields of the network that its function depends on."""
        return {
            field.name: getattr(self.module, field.name)
            for field in dataclasses.fields(self.module)
            if field.name not in ("parent", "name", "dtype", "remat")
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the folder `path`/vae, which `load` and diffusers read.

        Args:
            path: Folder to write to; made where it does not exist.

        Raises:
            StorageError: If the disk does not take it.
        """
        factors = self.scaling_factor, self.shift_factor, self.sample_size
        described = autoencoder.Described(self._fields, *factors)
        autoencoder_export.save(pathlib.Path(path) / PART, described, self.params)

    def _tile(self, side: int) -> tuple[int, int]:
        """Sides of a tile, in pixels and in latents."""
        step = tiles.OVERLAP * self.module.factor
        if side < step or side % step:
            raise ConfigError(
                f"tile_size={side}: must be a multiple of {step}; the size that the"
                " autoencoder was trained on, as 512, is a good one"
            )
        return side, side // self.module.factor

    @functools.cached_property
    def _encode(self):
        return self._jit("moments")

    @functools.cached_property
    def _decode(self):
        return self._jit("decode")

    def _jit(self, method: str):
        module = self.module
        return jax.jit(
            lambda params, x: module.apply({"params": params}, x, method=method)
        )


def load(
    path: str | os.PathLike,
    *,
    variant: str | None = None,
    config: str | os.PathLike | Mapping[str, Any] | None = None,
    precision: str = "float32",
) -> Autoencoder:
    """The autoencoder of a folder or file; no code of it is run.

    Args:
        path: A pipeline folder of diffusers, its vae/ alone, or a single file of
            Stable Diffusion (or of the autoencoder alone) as its authors released it.
        variant: Variant of the weights in a folder, as "fp16"; None takes the plain
            ones, or the only ones.
        config: diffusers' config of the network (a folder, a file, or its values) for
            a single file, which has none; None takes what the shapes say, and norms of
            32 groups.
        precision: Type that the network computes in, "float32" or "bfloat16"; the
            parameters are float32, whatever the file holds.

    Raises:
        ConfigError: If there is no such precision.
        CheckpointError: If there is no autoencoder, or it is damaged or of a kind that
            is not implemented. One line.

    Examples:
        >>> from kdiff_jax import latent
        >>> vae = latent.load(FOLDER, precision="bfloat16")
        >>> vae.scaling_factor, vae.module.latent_channels
        (0.18215, 4)
    """
    parts.check_precision(precision)
    path = pathlib.Path(path).expanduser()
    try:
        described, tensors = _read(path, variant, config)
        fields: dict[str, Any] = {**described.fields, "dtype": precision}
        module = AutoencoderKL(**fields)
        shape = (1, module.factor, module.factor, module.in_channels)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        params = parts.params(autoencoder.read_weights(tensors), module, images)
    except CheckpointError as error:
        start = "" if str(path) in str(error) else f"vae={str(path)!r}: "
        raise CheckpointError(f"{start}{error}") from error
    return Autoencoder(module, params, *described[1:])


def _read(path, variant, config) -> tuple[autoencoder.Described, dict[str, Lazy]]:
    if path.is_file():
        return _single_file(path, config)
    found, tensors = parts.read(parts.folder(path, PART), variant=variant)
    return autoencoder.read_config(found), tensors


def _single_file(path, config) -> tuple[autoencoder.Described, dict[str, Lazy]]:
    arrays = original.open_file(path)
    tensors = original.first_stage(arrays)
    if not tensors:
        raise CheckpointError(
            f"no autoencoder in it (no {original.FIRST_STAGE}decoder...); give the"
            " pipeline's folder, or the file with all networks"
        )
    if config is None and (path.parent / CONFIG).is_file():
        config = path.parent  # the weights of a folder of diffusers
    if config is not None:
        return autoencoder.read_config(parts.config(config, PART)), tensors
    shapes = {name: leaf.shape for name, leaf in tensors.items()}
    described = autoencoder.Described(autoencoder.of_shapes(shapes))
    if any(name.startswith(original.SDXL) for name in arrays):
        described = described._replace(scaling_factor=SDXL_SCALING_FACTOR)
    elif not any(name.startswith(original.FIRST_STAGE) for name in arrays):
        log.warning(
            "%s: scaling_factor=%s: Stable Diffusion's, as the file does not say it;"
            " SDXL's is %s: give config=FOLDER",
            *(path.name, described.scaling_factor, SDXL_SCALING_FACTOR),
        )
    return described, tensors


def _by_parts(run, x: Array, sides: tuple[int, int] | None, one_by_one: bool) -> Array:
    """`run` of all images, by tiles where they are larger than one, or one by one."""
    whole = run
    if sides is not None and max(x.shape[1:3]) > sides[0]:
        tile, tile_out = sides
        whole = functools.partial(tiles.tiled, run, tile=tile, tile_out=tile_out)
    if one_by_one and len(x) > 1:
        return jnp.concatenate([whole(x[i : i + 1]) for i in range(len(x))])
    return whole(x)
