"""Random changes of training images, on the device.

The augmentation is non-leaking: a label tells the network what was done to an image,
and generation asks for the label 0, "nothing". It is for denoisers that take such a
label.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from kdiff_jax import rng
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.types import Keys

AUGMENT_DIM = 9


def random_flip(
    x0: Shaped[Array, "B H W C"], keys: Keys, prob: float = 0.5
) -> Shaped[Array, "B H W C"]:
    """Mirrors each image left-right with probability `prob`; no label."""
    flip = rng.bernoulli(keys, "random_flip", prob)
    return jnp.where(broadcast_left(flip, x0), x0[:, :, ::-1], x0)


def augment(
    x0: Float[Array, "B H W C"],
    keys: Keys,
    prob: float | Float[Array, ""],
    *,
    xflip_prob: float | None = None,
    scale_std: float = 0.2,
    aniso_std: float = 0.2,
    translate_std: float = 0.125,
) -> tuple[Float[Array, "B H W C"], Float[Array, "B 9"]]:
    """EDM's geometric augmentation and its label.

    Each of six transforms is active with probability `prob`, by itself. An active flip
    is a fair coin; the others are one affine map, sampled once by cubic interpolation
    with mirrored edges (the paper resamples at twice the resolution instead).

    Args:
        x0: Images in [-1, 1].
        keys: Key[B].
        prob: p of the paper: 0.12 for CIFAR-10, 0.15 for FFHQ and AFHQ. May be traced.
        xflip_prob: Probability of the left-right flip; None for `prob`. EDM's own runs
            use 1: mirroring is part of their data.
        scale_std: Standard deviation of log2 of the scale.
        aniso_std: The same of the anisotropic scale.
        translate_std: Standard deviation of the shift, in images.

    Returns:
        Images, and labels [xflip, yflip, scale, cos - 1 and sin of the rotation, the
        two of the anisotropic scale, x and y shift]: zeros where nothing was done.

    Source: Karras et al. 2022, arXiv:2206.00364, Appendix F.2.
    """

    def active(name, values, chance=prob):
        on = rng.bernoulli(keys, f"{name}_on", chance)
        return jnp.where(broadcast_left(on, values), values, 0)

    def coin(name, chance=prob):
        return active(name, rng.bernoulli(keys, name, 0.5).astype(x0.dtype), chance)

    def angle(name):
        return jnp.pi * (2 * rng.uniform(keys, name) - 1)

    xflip = coin("xflip", prob if xflip_prob is None else xflip_prob)
    yflip = coin("yflip")
    scale = active("scale", rng.normal(keys, "scale", ()))
    rotation = active("rotate", angle("rotate"))
    aniso = active("aniso", rng.normal(keys, "aniso", ()))
    aniso_angle = angle("aniso_angle")
    shift = active("translate", rng.normal(keys, "translate", (2,)))

    height, width = x0.shape[1:3]
    size = jnp.array([width, height], x0.dtype)
    x0 = jnp.where(broadcast_left(xflip, x0) > 0, x0[:, :, ::-1], x0)
    x0 = jnp.where(broadcast_left(yflip, x0) > 0, x0[:, ::-1], x0)
    matrix, offset = jax.vmap(_inverse_map)(
        jnp.exp2(scale_std * scale),
        rotation,
        jnp.exp2(aniso_std * aniso),
        aniso_angle,
        translate_std * shift * size[None],
    )
    label = [xflip, yflip, scale, jnp.cos(rotation) - 1, jnp.sin(rotation)]
    label += [aniso * jnp.cos(aniso_angle), aniso * jnp.sin(aniso_angle)]
    label += [shift[:, 0], shift[:, 1]]
    return jax.vmap(resample)(x0, matrix, offset), jnp.stack(label, axis=1)


def _inverse_map(scale, rotation, aniso, aniso_angle, shift):
    """Output pixel -> input pixel, both (x, y) from the image's centre: A p + b."""

    def turn(angle):
        c, s = jnp.cos(angle), jnp.sin(angle)
        return jnp.array([[c, -s], [s, c]])

    stretch = turn(-aniso_angle) @ jnp.diag(jnp.array([1 / aniso, aniso]))
    stretch = stretch @ turn(aniso_angle)
    # Exactly the identity when not stretched: turning there and back rounds.
    stretch = jnp.where(aniso == 1, jnp.eye(2), stretch)
    matrix = turn(rotation) @ stretch / scale
    return matrix, -matrix @ shift


def resample(
    image: Float[Array, "H W C"],
    matrix: Float[Array, "2 2"],
    offset: Float[Array, " 2"],
) -> Float[Array, "H W C"]:
    """image at matrix @ (x, y) + offset, in pixels from the image's centre.

    Cubic convolution (Keys 1981, a = -1/2) with edges mirrored about the outer pixels;
    the identity map gives the image itself.
    """
    height, width = image.shape[:2]
    centre = jnp.array([(width - 1) / 2, (height - 1) / 2], image.dtype)
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    points = jnp.stack([x, y]).astype(image.dtype) - centre[:, None, None]
    points = jnp.einsum("ij,jhw->ihw", matrix, points, precision="highest")
    points += (offset + centre)[:, None, None]
    corner = jnp.floor(points)
    weights = _cubic_weights(points - corner)
    corner = corner.astype(jnp.int32)
    result = jnp.zeros_like(image)
    for j in range(4):
        row = _mirror(corner[1] + j - 1, height)
        for i in range(4):
            column = _mirror(corner[0] + i - 1, width)
            weight = weights[i][0] * weights[j][1]
            result += weight[:, :, None] * image[row, column]
    return result


def _cubic_weights(f):
    """Weights of the neighbours at distances 1 + f, f, 1 - f, 2 - f; their sum is 1."""
    return (
        ((-0.5 * f + 1.0) * f - 0.5) * f,
        (1.5 * f - 2.5) * f * f + 1,
        ((-1.5 * f + 2.0) * f + 0.5) * f,
        (0.5 * f - 0.5) * f * f,
    )


def _mirror(index, size):
    """Reflects an index into 0 .. size - 1 without repeating the edge."""
    period = max(2 * (size - 1), 1)
    index = jnp.abs(index) % period
    return jnp.minimum(index, period - index) if size > 1 else 0 * index
