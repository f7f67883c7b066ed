"""The transformers of Stable Diffusion's U-Net: an image that reads a text.

Parameters have diffusers' names, with `_` for the dots before numbers.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.arguments import Count
from kdiff_jax.networks import layers
from kdiff_jax.networks.ddpm_layers import SMALL, XAVIER

PROJECTION_EPS = 1e-6  # of the norm before the first block; its file's is another


class Transformer2D(nn.Module):
    """Blocks on the places of an image, between two projections; + x.

    Attributes:
        num_heads: Number of heads; each has as many channels as fit.
        depth: Number of blocks.
        linear_projection: Whether the projections are Dense layers (SD 2.x, SDXL), or
            1x1 convolutions (SD 1.x).
        num_groups: Groups of the norm.
        dtype: Type of the activations.
    """

    num_heads: Count
    depth: Count
    linear_projection: bool
    num_groups: Count
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], context: Float[Array, "B L D"]
    ) -> Float[Array, "B H W C"]:
        batch, height, width, channels = x.shape
        head_dim = channels // self.num_heads
        norm = layers.group_norm(
            channels, name="norm", num_groups=self.num_groups, eps=PROJECTION_EPS
        )

        def project(h, name, width, init):
            fields: dict[str, Any] = dict(kernel_init=init, dtype=self.dtype, name=name)
            if self.linear_projection:
                return nn.Dense(width, **fields)(h)
            return nn.Conv(width, (1, 1), **fields)(h)

        h = project(norm(x), "proj_in", self.num_heads * head_dim, XAVIER)
        h = h.reshape(batch, height * width, -1)
        for i in range(self.depth):
            block = Block(self.num_heads, self.dtype, name=f"transformer_blocks_{i}")
            h = block(h, context)
        h = h.reshape(batch, height, width, -1)
        return x + project(h, "proj_out", channels, SMALL)


class Block(nn.Module):
    """Attention to the image, attention to the text, GEGLU; each behind a norm; + x."""

    num_heads: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], context: Float[Array, "B L D"]
    ) -> Float[Array, "B N C"]:
        attention = (self.num_heads, self.dtype)
        h = _norm("norm1")(x)
        x = x + Attention(*attention, name="attn1")(h, h)
        x = x + Attention(*attention, name="attn2")(_norm("norm2")(x), context)
        return x + FeedForward(self.dtype, name="ff")(_norm("norm3")(x))


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v of what `h` asks and `about` answers."""

    num_heads: int
    dtype: str

    @nn.compact
    def __call__(
        self, h: Float[Array, "B N C"], about: Float[Array, "B L D"]
    ) -> Float[Array, "B N C"]:
        width = h.shape[-1]
        q, k, v = (
            nn.Dense(
                width, use_bias=False, kernel_init=XAVIER, dtype=self.dtype, name=name
            )(source).reshape(*source.shape[:2], self.num_heads, -1)
            for name, source in (("to_q", h), ("to_k", about), ("to_v", about))
        )
        h = layers.attend_to(q, k, v).reshape(h.shape)
        return nn.Dense(width, kernel_init=SMALL, dtype=self.dtype, name="to_out_0")(h)


class FeedForward(nn.Module):
    """GEGLU, C -> 4C, and back.

    Source: Shazeer 2020, arXiv:2002.05202, section 2.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        width = x.shape[-1]
        dense = nn.Dense(
            8 * width, kernel_init=XAVIER, dtype=self.dtype, name="net_0_proj"
        )
        h, gate = jnp.split(dense(x), 2, axis=-1)
        h = h * nn.gelu(gate, approximate=False)
        return nn.Dense(width, kernel_init=SMALL, dtype=self.dtype, name="net_2")(h)


def _norm(name: str) -> nn.LayerNorm:
    """LayerNorm in float32; see `layers.group_norm` on the variance."""
    return nn.LayerNorm(
        epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name=name
    )
