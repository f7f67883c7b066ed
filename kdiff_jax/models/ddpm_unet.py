"""The U-Net of DDPM, the teacher of Denoising Student; diffusers' `UNet2DModel`.

Parameters have diffusers' names, with `_` for the dots inside a block's own name.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.models import layers
from kdiff_jax.models.network import Network
from kdiff_jax.types import Keys

XAVIER = nn.initializers.xavier_uniform()
# The end of each branch. 1e-10 in place of zero, as in the original.
SMALL = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")


class ResBlock(nn.Module):
    """norm, silu, conv, + time, norm, silu, dropout, conv; + x."""

    out_channels: int
    dropout: float
    num_groups: int
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        emb: Float[Array, "B E"],
        keys: Keys | None,
    ) -> Float[Array, "B H W C2"]:
        norms: dict[str, Any] = dict(num_groups=self.num_groups, eps=self.norm_eps)
        convs: dict[str, Any] = dict(kernel_init=XAVIER, dtype=self.dtype)
        h = nn.silu(layers.group_norm(x.shape[-1], name="norm1", **norms)(x))
        h = nn.Conv(self.out_channels, (3, 3), name="conv1", **convs)(h)
        dense = nn.Dense(self.out_channels, kernel_init=XAVIER, name="time_emb_proj")
        h = h + dense(nn.silu(emb))[:, None, None, :]
        h = nn.silu(layers.group_norm(self.out_channels, name="norm2", **norms)(h))
        h = layers.Dropout(self.dropout, name="dropout")(h.astype(self.dtype), keys)
        h = nn.Conv(
            self.out_channels, (3, 3), kernel_init=SMALL, dtype=self.dtype, name="conv2"
        )(h)
        if x.shape[-1] != self.out_channels:
            x = nn.Conv(self.out_channels, (1, 1), name="conv_shortcut", **convs)(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over the places of an image; + x."""

    head_dim: int | None
    num_groups: int
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        h = layers.group_norm(
            channels, name="group_norm", num_groups=self.num_groups, eps=self.norm_eps
        )(x)
        q, k, v = (
            nn.Dense(channels, kernel_init=XAVIER, dtype=self.dtype, name=name)(
                h
            ).reshape(*h.shape[:-1], -1, self.head_dim or channels)
            for name in ("to_q", "to_k", "to_v")
        )
        h = layers.attend(q, k, v).reshape(x.shape)
        h = nn.Dense(channels, kernel_init=SMALL, dtype=self.dtype, name="to_out_0")(h)
        return x + h


class DdpmUNet(Network):
    """F(x, index, y) of DDPM. The defaults are its CIFAR-10 network, 35,746,307.

    Attributes:
        head_dim: Channels per head; None is one head.
        num_groups: Groups of each norm. As many as channels would hide the time.
        norm_eps: Epsilon of each norm (TensorFlow-addons' default was 1e-3).
        freq_shift: Of the sinusoid; see `layers.sinusoid`.
        flip_sin_to_cos: Puts the cosines of the sinusoid first.
        downsample_padding: 0 pads below and right, as TensorFlow does; 1 all around.

    The others are those of `Network`.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Luhman & Luhman 2021,
    arXiv:2101.02388.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    head_dim: int | None = None
    num_groups: int = 32
    norm_eps: float = 1e-6
    freq_shift: float = 1.0
    flip_sin_to_cos: bool = False
    downsample_padding: int = 0

    @nn.compact
    def trunk(self, x, c_noise, rows, augment, keys):
        block_class = nn.remat(ResBlock) if self.remat else ResBlock
        attention_class = nn.remat(Attention) if self.remat else Attention
        emb = self.embed(c_noise, rows, augment)
        shared = (self.num_groups, self.norm_eps, self.dtype)

        def conv(h, name, width, **keywords):
            convs: dict[str, Any] = dict(kernel_init=XAVIER, dtype=self.dtype)
            return nn.Conv(width, (3, 3), name=name, **(convs | keywords))(h)

        def block(h, name, width):
            return block_class(width, self.dropout, *shared, name=name)(h, emb, keys)

        def attention(h, name):
            return attention_class(self.head_dim, *shared, name=name)(h)

        h = conv(x, "conv_in", self.channels)
        skips, features = [h], []
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_blocks):
                name = f"down_blocks_{level}_{{}}_{i}"
                h = block(h, name.format("resnets"), self.channels * mult)
                if h.shape[1] in self.attn_resolutions:
                    h = attention(h, name.format("attentions"))
                skips.append(h)
            features.append(h)
            if level < len(self.channel_mult) - 1:
                pad = (self.downsample_padding, 1)
                name = f"down_blocks_{level}_downsamplers_0_conv"
                h = conv(h, name, h.shape[-1], strides=2, padding=(pad, pad))
                skips.append(h)

        h = block(h, "mid_block_resnets_0", h.shape[-1])
        h = attention(h, "mid_block_attentions_0")
        h = block(h, "mid_block_resnets_1", h.shape[-1])
        features.append(h)

        for level, mult in enumerate(reversed(self.channel_mult)):
            for i in range(self.num_blocks + 1):
                name = f"up_blocks_{level}_{{}}_{i}"
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, name.format("resnets"), self.channels * mult)
                if h.shape[1] in self.attn_resolutions:
                    h = attention(h, name.format("attentions"))
            if level < len(self.channel_mult) - 1:
                name = f"up_blocks_{level}_upsamplers_0_conv"
                h = conv(layers.upsample(h), name, h.shape[-1])

        h = layers.group_norm(
            h.shape[-1],
            name="conv_norm_out",
            num_groups=self.num_groups,
            eps=self.norm_eps,
        )(h)
        out = conv(
            nn.silu(h),
            "conv_out",
            self.out_channels,
            kernel_init=SMALL,
            dtype="float32",
        )
        return out, features

    def embed(self, t, rows, augment):
        """f32[B, 4 C]: Dense, silu, Dense of the time; plus the labels."""
        width = 4 * self.channels
        emb = layers.sinusoid(t, self.channels, freq_shift=self.freq_shift)
        if self.flip_sin_to_cos:
            emb = jnp.roll(emb, self.channels // 2, axis=-1)
        for i in (1, 2):
            emb = nn.silu(emb) if i == 2 else emb
            dense = nn.Dense(
                width, kernel_init=XAVIER, name=f"time_embedding_linear_{i}"
            )
            emb = dense(emb)
        if self.num_classes:
            emb = emb + nn.Dense(width, use_bias=False, name="class_embedding")(rows)
        if self.augment_dim:
            emb = emb + nn.Dense(width, use_bias=False, name="augment_embedding")(
                augment
            )
        return emb


make = DdpmUNet
