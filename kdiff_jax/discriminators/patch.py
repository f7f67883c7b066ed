"""A discriminator of patches: a map of logits, each of a part of the image."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.arguments import Count
from kdiff_jax.networks import layers

SLOPE = 0.2  # of leaky ReLU


class PatchDiscriminator(nn.Module):
    """Convolutions of stride 2 with leaky ReLU, and one of a single channel.

    Norms are over groups of channels of one image, so that the logits of an image
    depend on no other; the first convolution has none, and so sees colour.

    Attributes:
        width: Channels of the first convolution; each next one has twice as many.
        num_levels: Number of convolutions of stride 2.
        num_groups: Groups of each norm; they must divide `width`.
        dtype: Type of the convolutions' operands; logits are float32.

    Source: Isola et al. 2017, arXiv:1611.07004, Section 3.2.2.
    """

    width: Count = 32
    num_levels: Count = 2
    num_groups: Count = 8
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w"]:
        h = images
        for level in range(self.num_levels):
            width = self.width * 2**level
            h = nn.Conv(width, (4, 4), 2, dtype=self.dtype, name=f"conv_{level}")(h)
            if level:
                groups = self.num_groups
                h = layers.group_norm(width, num_groups=groups, name=f"norm_{level}")(h)
            h = nn.leaky_relu(h, SLOPE)
        logits = nn.Conv(1, (4, 4), dtype=self.dtype, name="conv_out")(h)
        return logits[..., 0].astype(jnp.float32)
