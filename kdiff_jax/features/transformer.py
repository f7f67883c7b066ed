"""Blocks of transformers with norms before attention and MLP, of images and of text.

Modules carry the names of DINOv2's hub: `blocks.0.attn` / `qkv`. `named` brings those
of others to them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax.features.frozen import PRECISION
from kdiff_jax.formats.lazy import Lazy

GELUS = {
    "exact": lambda x: nn.gelu(x, approximate=False),
    "quick": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's
    "tanh": lambda x: nn.gelu(x, approximate=True),
}


class Attention(nn.Module):
    """Self-attention of all tokens; q, k and v come from one matrix, in this order.

    Attributes:
        num_heads: Number of heads.
        causal: Whether a token sees only itself and those before it.
        dtype: Type of the products.
    """

    num_heads: int
    causal: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        batch, num_tokens, width = x.shape
        qkv = dense(3 * width, "qkv", self.dtype)(x)
        shape = (batch, num_tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = jnp.moveaxis(qkv.reshape(shape), 2, 0)
        with jax.default_matmul_precision("highest"):  # see `frozen.PRECISION`
            out = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return dense(width, "proj", self.dtype)(out.reshape(batch, num_tokens, width))


class Mlp(nn.Module):
    """A hidden layer of `hidden` numbers, with a GELU of `GELUS`."""

    hidden: int
    gelu: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        h = GELUS[self.gelu](dense(self.hidden, "fc1", self.dtype)(x))
        return dense(x.shape[-1], "fc2", self.dtype)(h)


def dense(num_features: int, name: str, dtype: str = "float32") -> nn.Dense:
    """A linear layer that multiplies alike on every accelerator."""
    return nn.Dense(num_features, precision=PRECISION, dtype=dtype, name=name)


def norm(eps: float, name: str) -> nn.LayerNorm:
    """A LayerNorm in float32."""
    fields: dict[str, Any] = dict(use_fast_variance=False, epsilon=eps, dtype="float32")
    return nn.LayerNorm(**fields, name=name)


def named(
    found: Mapping[str, Lazy], names: Sequence[tuple[str, str]]
) -> dict[str, Lazy]:
    """Arrays under our names, with q, k and v as one.

    Args:
        found: Arrays of a file.
        names: What to replace before `NAMES`: (pattern, ours).
    """
    whole: dict[str, Lazy] = {}
    parts: dict[str, dict[str, Lazy]] = {}
    for name, array in found.items():
        for pattern, ours in (*names, *NAMES):
            name = re.sub(pattern, ours, name)
        if match := re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", name):
            start, letter, leaf = match.groups()
            parts.setdefault(f"{start}.qkv.{leaf}", {})[letter] = array
        else:
            whole[name] = array
    return whole | {k: _joined(v) for k, v in parts.items() if len(v) == 3}


def _joined(parts):
    q, k, v = (parts[letter] for letter in "qkv")
    shape = (sum(part.shape[0] for part in (q, k, v)), *q.shape[1:])
    return Lazy(shape, q.dtype, lambda: np.concatenate([q.read(), k.read(), v.read()]))


NAMES = (
    # OpenCLIP's and OpenAI's.
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    # Those of transformers' CLIP.
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
)
