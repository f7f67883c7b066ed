"""The space of latents: an autoencoder stands between them and pixels, both ways."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import pixels, registry, rng
from kdiff_jax.arguments import Positive
from kdiff_jax.domain import Frozen, Space
from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL, split
from kdiff_jax.named import Named

ROLE = "autoencoder"  # of its parameters among the frozen arrays


class Latents(AutoencoderKL):
    """An autoencoder with the scale of its latents, as denoisers read them.

    x0 = (z - shift_factor) scaling_factor

    Attributes:
        scaling_factor: About one over the deviation of z.
        shift_factor: About the mean of z.
    """

    scaling_factor: Positive = 0.18215
    shift_factor: float = 0.0

    def scaled(self, z: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """x0 of latents."""
        return (z - self.shift_factor) * self.scaling_factor

    def decoded(self, x0: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """Images of x0, in [-1, 1] but for overshoots."""
        return self.decode(x0 / self.scaling_factor + self.shift_factor)


AUTOENCODERS: dict[str, Callable[..., Latents]] = {"autoencoder_kl": Latents}


def names() -> list[str]:
    """The autoencoders that exist."""
    return list(AUTOENCODERS)


def make_function(name: str) -> Callable[..., Latents]:
    """What makes an autoencoder; its keywords are the network's fields."""
    return registry.entry(AUTOENCODERS, name, what="autoencoder")


def make(name: str, **keywords) -> Latents:
    """The autoencoder `name`, with its scale."""
    return make_function(name)(**keywords)


def shapes(autoencoder: Named) -> Mapping[str, Any]:
    """Shapes of its parameters."""
    module = autoencoder.call(make)
    side = module.factor
    images = jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32)
    found = jax.eval_shape(module.init, jax.eval_shape(jax.random.key, 0), images)
    return found["params"]


def space(shape: tuple[int, ...], autoencoder: Named, dtype="float32") -> Space:
    """Latents of an autoencoder whose parameters are among the frozen arrays.

    Images are encoded to a draw from their Gaussian, another at each step, where keys
    are given, else to its mean. So are cached moments, float16[B, h, w, 2D].

    Args:
        shape: (h, w, D) of the latents.
        autoencoder: Its name and fields.
        dtype: Type that it computes in, "float32" or "bfloat16".
    """
    module = autoencoder.changed(dtype=dtype).call(make)
    height, width, channels = shape
    side = module.factor

    def run(frozen: Frozen, x, method: str) -> Any:
        return module.apply({"params": frozen[ROLE]}, x, method=method)

    def moments(frozen: Frozen, raw):
        if raw.dtype == jnp.uint8:
            return run(frozen, pixels.to_float(raw), "moments")
        return raw.astype(jnp.float32)

    def from_data(frozen: Frozen, raw):
        return module.scaled(split(moments(frozen, raw))[0])

    def draw(frozen: Frozen, raw, keys):
        mean, logvar = split(moments(frozen, raw))
        eps = rng.normal(keys, "latents", mean.shape[1:])
        return module.scaled(mean + jnp.exp(0.5 * logvar) * eps)

    return Space(
        tuple(shape),
        (side * height, side * width, module.out_channels),
        from_data=from_data,
        to_images=lambda frozen, x0: run(frozen, x0, "decoded"),
        to_kept=lambda x0: x0.astype(jnp.float16),
        draw=draw,
        moments=2 * channels,
        shapes=lambda: {ROLE: shapes(autoencoder)},
    )
