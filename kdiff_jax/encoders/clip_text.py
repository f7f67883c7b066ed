"""The text towers of CLIP: tokens of a prompt to text states.

OpenAI's ViT-L/14 (Stable Diffusion 1), OpenCLIP's H without its last block (Stable
Diffusion 2) and bigG (the second of SDXL) are one network of other sizes. Blocks are
those of the image towers (`features.transformer`), with a causal mask; padding is not
masked, as none of them was trained so.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdiff_jax.arguments import Count, Positive
from kdiff_jax.features.frozen import PRECISION
from kdiff_jax.features.transformer import Attention, Mlp, norm


class TextStates(NamedTuple):
    """What a text tower says of prompts, float32.

    Attributes:
        hidden: f32[B, L, D], the last block's output behind the last norm.
        pooled: f32[B, D], that at the end of the text.
        penultimate: f32[B, L, D], what the last block reads, without a norm.
        projected: f32[B, P], `pooled` in the space of CLIP's images; None of a tower
            without a projection.
    """

    hidden: Array
    pooled: Array
    penultimate: Array
    projected: Array | None


class ClipText(nn.Module):
    """A text tower; the defaults are those of OpenAI's ViT-L/14.

    Attributes:
        vocab_size: Number of tokens.
        width: Size of a text state.
        num_blocks: Number of blocks.
        num_heads: Heads of attention.
        hidden: Size of the hidden layers.
        num_positions: The most tokens of a prompt, with start and end.
        gelu: A name of `transformer.GELUS`.
        eps: Added to the variance by the norms.
        end: Token at whose first place the text ends; None is the token of the largest
            number, which CLIP's own code takes.
        projection: Size of the projection; None for none.
        dtype: Type of the activations and products; parameters are float32.
        remat: Recompute the blocks in the backward pass, to save memory.

    Source: Radford et al. 2021, arXiv:2103.00020, section 2.4.
    """

    vocab_size: Count = 49408
    width: Count = 768
    num_blocks: Count = 12
    num_heads: Count = 12
    hidden: Count = 3072
    num_positions: Count = 77
    gelu: Literal["exact", "quick", "tanh"] = "quick"
    eps: Positive = 1e-5
    end: int | None = None
    projection: Count | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, ids: Int[Array, "B L"]) -> TextStates:
        """Text states of prompts; their length is at most `num_positions`."""
        normal = nn.initializers.normal(0.02)
        tokens = self.param("token_embedding", normal, (self.vocab_size, self.width))
        places = self.param("pos_embed", normal, (self.num_positions, self.width))
        x = (tokens[ids] + places[None, : ids.shape[1]]).astype(self.dtype)
        block = nn.remat(Block) if self.remat else Block
        before = x
        for i in range(self.num_blocks):
            before = x
            fields = (self.num_heads, self.hidden, self.gelu, self.eps, self.dtype)
            x = block(*fields, name=f"blocks.{i}")(x)
        states = norm(self.eps, "norm")(x)
        last = jnp.argmax(ids if self.end is None else ids == self.end, axis=1)
        pooled = states[jnp.arange(len(ids)), last]
        projected = None
        if self.projection is not None:
            shape = (self.width, self.projection)
            matrix = self.param("proj", nn.initializers.lecun_normal(), shape)
            projected = jnp.matmul(pooled, matrix, precision=PRECISION)
        return TextStates(states, pooled, before.astype(jnp.float32), projected)


class Block(nn.Module):
    """Causal attention and an MLP, each behind a norm; + x."""

    num_heads: int
    hidden: int
    gelu: str
    eps: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        attention = Attention(self.num_heads, True, self.dtype, name="attn")
        x = x + attention(norm(self.eps, "norm1")(x))
        mlp = Mlp(self.hidden, self.gelu, self.dtype, name="mlp")
        return x + mlp(norm(self.eps, "norm2")(x))
