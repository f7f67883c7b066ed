"""The blocks of DDPM's U-Net, the two that diffusers builds `UNet2DModel` from.

Parameters have diffusers' names, with `_` for the dots inside a block's own name.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.networks import layers
from kdiff_jax.types import Keys

XAVIER = nn.initializers.xavier_uniform()
# The end of each branch. 1e-10 in place of zero, as in the original.
SMALL = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")


class ResBlock(nn.Module):
    """norm, silu, conv, + time, norm, silu, dropout, conv; + x.

    Attributes:
        scale_shift: The time gives norm(h) (1 + scale) + shift; else norm(h + shift).
        resample: "up" or "down" makes both branches twice or half the size; or "".
        divisor: Divisor of the sum of the two branches.
    """

    out_channels: int
    dropout: float
    num_groups: int
    norm_eps: float
    dtype: str = "float32"
    scale_shift: bool = False
    resample: str = ""
    divisor: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        emb: Float[Array, "B E"],
        keys: Keys | None,
    ) -> Float[Array, "B H2 W2 C2"]:
        width = self.out_channels
        norms: dict[str, Any] = dict(num_groups=self.num_groups, eps=self.norm_eps)
        convs: dict[str, Any] = dict(kernel_init=XAVIER, dtype=self.dtype)
        h = nn.silu(layers.group_norm(x.shape[-1], name="norm1", **norms)(x))
        if self.resample:
            resized = dict(up=layers.upsample, down=layers.downsample)[self.resample]
            x, h = resized(x), resized(h)
        h = nn.Conv(width, (3, 3), name="conv1", **convs)(h)
        dense = nn.Dense(
            width * (1 + self.scale_shift), kernel_init=XAVIER, name="time_emb_proj"
        )
        shift = dense(nn.silu(emb))[:, None, None, :]
        norm2 = layers.group_norm(width, name="norm2", **norms)
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = norm2(h) * (1 + scale) + shift
        else:
            h = norm2(h + shift)
        h = nn.silu(h).astype(self.dtype)
        h = layers.Dropout(self.dropout, name="dropout")(h, keys)
        h = nn.Conv(width, (3, 3), kernel_init=SMALL, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != width:
            x = nn.Conv(width, (1, 1), name="conv_shortcut", **convs)(x)
        return (x + h) / self.divisor


class Attention(nn.Module):
    """Self-attention over the places of an image; + x.

    Attributes:
        head_dim: Channels per head; None is one head.
        num_groups: Number of groups of the norm; None for no norm.
        divisor: Divisor of the sum of the two branches.
    """

    head_dim: int | None
    num_groups: int | None
    norm_eps: float
    dtype: str = "float32"
    divisor: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        h = x
        if self.num_groups is not None:
            h = layers.group_norm(
                channels,
                name="group_norm",
                num_groups=self.num_groups,
                eps=self.norm_eps,
            )(x)
        q, k, v = (
            nn.Dense(channels, kernel_init=XAVIER, dtype=self.dtype, name=name)(
                h
            ).reshape(*h.shape[:-1], -1, self.head_dim or channels)
            for name in ("to_q", "to_k", "to_v")
        )
        h = layers.attend(q, k, v).reshape(x.shape)
        h = nn.Dense(channels, kernel_init=SMALL, dtype=self.dtype, name="to_out_0")(h)
        return (x + h) / self.divisor
