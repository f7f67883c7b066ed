"""Differentiable random changes of what a discriminator sees, real and generated.

Each image has its own draws, a function of its key: give real and generated images
different keys, and the gradient passes through to the generator.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import rng
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.errors import ConfigError
from kdiff_jax.types import Keys


def diffaugment(
    x: Float[Array, "B H W C"], keys: Keys, policy: tuple[str, ...] = ()
) -> Float[Array, "B H W C"]:
    """The changes named in `policy`, in its order; none if it is empty.

    Args:
        x: Images in [-1, 1]; the result is not clipped.
        keys: Key[B].
        policy: Names among "color" (brightness, saturation, contrast), "translation"
            (up to an eighth of the image, zero padding) and "cutout" (zeros in a square
            of half the side). The paper's full policy is all three in this order.

    Raises:
        ConfigError: If a change is unknown.

    Source: Zhao et al. 2020, arXiv:2006.10738, Section 3 and released code.
    """
    check(policy)
    for name in policy:
        x = _CHANGES[name](x, keys)
    return x


def check(policy: tuple[str, ...]) -> None:
    """Raises ConfigError if a change is unknown."""
    for name in policy:
        if name not in _CHANGES:
            raise ConfigError(
                f"augment={policy}: {name!r} is unknown; choose of"
                f" {', '.join(_CHANGES)}"
            )


def color(x: Float[Array, "B H W C"], keys: Keys) -> Float[Array, "B H W C"]:
    """x + U[-1/2, 1/2); saturation times U[0, 2); contrast times U[1/2, 3/2)."""
    x = x + broadcast_left(rng.uniform(keys, "brightness") - 0.5, x)
    grey = x.mean(axis=-1, keepdims=True)
    x = grey + (x - grey) * broadcast_left(2 * rng.uniform(keys, "saturation"), x)
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (x - mean) * broadcast_left(0.5 + rng.uniform(keys, "contrast"), x)


def translation(x: Float[Array, "B H W C"], keys: Keys) -> Float[Array, "B H W C"]:
    """Shifts by whole pixels, uniform up to an eighth of each side."""
    reach = [_share(size, 0.125) for size in x.shape[1:3]]
    y_shift, x_shift = (
        rng.randint(keys, name, 2 * most + 1)
        for name, most in zip(("y_shift", "x_shift"), reach, strict=True)
    )
    edges = ((0, 0), *((most, most) for most in reach), (0, 0))

    def crop(padded, i, j):
        return jax.lax.dynamic_slice(padded, (i, j, 0), x.shape[1:])

    return jax.vmap(crop)(jnp.pad(x, edges), y_shift, x_shift)


def cutout(x: Float[Array, "B H W C"], keys: Keys) -> Float[Array, "B H W C"]:
    """Zeros in a rectangle of half of each side; its centre is uniform in the image."""
    inside = [
        _inside(size, rng.stream(keys, name))
        for size, name in zip(x.shape[1:3], ("y_cutout", "x_cutout"), strict=True)
    ]
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(hole[..., None], 0, x)


def _inside(size, keys):
    """bool[B, size]: the pixels of one side that are cut out."""
    length = _share(size, 0.5)
    # An even length has its centre between pixels, the image's two ends included.
    num_centres = size + 1 - length % 2
    first = rng.randint(keys, "centre", num_centres) - length // 2
    pixel = jnp.arange(size)[None]
    return (pixel >= first[:, None]) & (pixel < first[:, None] + length)


def _share(size, ratio):
    return int(size * ratio + 0.5)


_CHANGES = {"color": color, "translation": translation, "cutout": cutout}
