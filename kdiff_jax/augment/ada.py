"""Adaptive discriminator augmentation: changes whose probability follows overfitting.

Karras et al. 2020, arXiv:2006.06676. As long as the probability stays below about 0.8,
the changes do not leak into what is generated (Section 2.2 there).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import rng
from kdiff_jax.augment import geometry
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.errors import ConfigError
from kdiff_jax.types import Keys


def check(target: float, num_steps: int) -> None:
    """Raises ConfigError if `next_prob` has no use for them; a target of 0 is "off"."""
    if not 0 <= target < 1:
        raise ConfigError(f"ada_target={target}: must lie in [0, 1); 0 is off")
    if num_steps < 1:
        raise ConfigError(f"ada_steps={num_steps}: at least 1")


def next_prob(
    prob: Float[Array, ""], r: Float[Array, ""], *, target: float, num_steps: int
) -> Float[Array, ""]:
    """prob + sign(r - target) / num_steps, in [0, 1].

    Args:
        prob: Probability of each transform before the update.
        r: E[sign(D(x0))] over the real images of the global batch: 0 for an undecided
            discriminator, 1 for one that has memorised them.
        target: Value of r that the updates aim at; 0.6 in the paper.
        num_steps: Number of updates in which prob can go from 0 to 1.

    Source: arXiv:2006.06676, Section 3.1, which moves after every fourth batch, by four
        times as much, with r from all four.
    """
    return jnp.clip(prob + jnp.sign(r - target) / num_steps, 0, 1)


def augment(
    x: Float[Array, "B H W C"], keys: Keys, prob: float | Float[Array, ""]
) -> Float[Array, "B H W C"]:
    """The paper's geometric and color changes, each with probability `prob`.

    - Geometry is `augment.augment`, EDM's heir of the paper's: flips, scale, rotation,
      anisotropic scale and translation. Other than in the paper there is a flip upside
      down, no turn by right angles, one rotation of probability prob in place of two,
      and no translation by whole pixels; resampling is cubic, at the image's size.
    - Color is all of the paper's, see `color`.
    - Its filters, noise and cutout are absent: they did not help there.

    With prob = 0 images stay as they are, bit for bit. The result is linear in x but
    for an offset, so gradients of any order pass.

    Args:
        x: Images in [-1, 1]; the result is not clipped.
        keys: Key[B].
        prob: May be traced.

    Source: arXiv:2006.06676, Appendix B.
    """
    x, _ = geometry.augment(x, rng.stream(keys, "geometry"), prob)
    return color(x, rng.stream(keys, "color"), prob)


def color(
    x: Float[Array, "B H W C"], keys: Keys, prob: float | Float[Array, ""]
) -> Float[Array, "B H W C"]:
    """Five changes of color, each active with probability `prob` by itself.

    With l the mean of the channels, c = x - l, and u = (1, 1, 1) / sqrt(3), about which
    hue turns, x becomes

    flip contrast (l + brightness) + contrast saturation (c cos(hue) + (u x c) sin(hue))

    where brightness ~ N(0, 0.2^2), log2 of contrast ~ N(0, 0.5^2), flip is -1 or 1, hue
    is uniform on the circle and log2 of saturation ~ N(0, 1). Hue is for three
    channels alone.
    """

    def active(name, values, otherwise):
        return jnp.where(rng.bernoulli(keys, f"{name}_on", prob), values, otherwise)

    def normal(name):
        return active(name, rng.normal(keys, name, ()), 0)

    brightness = 0.2 * normal("brightness")
    contrast = jnp.exp2(0.5 * normal("contrast"))
    flip = active("flip", jnp.where(rng.bernoulli(keys, "flip", 0.5), -1.0, 1.0), 1)
    hue = active("hue", jnp.pi * (2 * rng.uniform(keys, "hue") - 1), 0)
    saturation = jnp.exp2(normal("saturation"))
    if x.shape[-1] != 3:
        hue = jnp.zeros_like(hue)

    mean = x.mean(axis=-1, keepdims=True)
    across = (jnp.roll(x, 1, axis=-1) - jnp.roll(x, -1, axis=-1)) / jnp.sqrt(3.0)
    for_mean, for_rest = flip * contrast, contrast * saturation
    cos, sin = for_rest * jnp.cos(hue), for_rest * jnp.sin(hue)
    # By x and not by c, as x - l + l rounds.
    x = broadcast_left(cos, x) * x + broadcast_left(sin, x) * across
    return (
        x
        + broadcast_left(for_mean - cos, x) * mean
        + broadcast_left(for_mean * brightness, x)
    )
