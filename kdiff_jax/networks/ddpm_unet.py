"""The U-Net of DDPM, the teacher of Denoising Student; diffusers' `UNet2DModel`.

Parameters have diffusers' names, with `_` for the dots inside a block's own name.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kdiff_jax.arguments import Count, Positive, Whole
from kdiff_jax.networks import layers
from kdiff_jax.networks.ddpm_layers import SMALL, XAVIER, Attention, ResBlock
from kdiff_jax.networks.network import Network

REVISION = 1  # see `networks.revision`
CLASS_LAYER = "class_embedding"  # reads one-hot labels
# Paths of the leaves that GDD-I freezes, see `freeze`. Some resample by themselves.
CONVOLUTIONS = (
    r"(down|mid|up)[^/]*/(conv[12]|to_out_0)/[^/]+"
    r"|[^/]*(down|up)samplers_\d+_conv/[^/]+"
)


class DdpmUNet(Network):
    """F(x, index, y) of DDPM. The defaults are its CIFAR-10 network, 35,746,307.

    Attributes:
        widths: Channels of each level, where those are no multiples of `channels`; ()
            is `channels * channel_mult[i]`.
        emb_channels: Width of the embedding; None is 4 `channels`.
        head_dim: Channels per head; None is one head.
        num_groups: Groups of each norm. As many as channels would hide the time.
        norm_eps: Epsilon of each norm (TensorFlow-addons' default was 1e-3).
        freq_shift: Frequency shift of the sinusoid; see `layers.sinusoid`.
        flip_sin_to_cos: Puts the cosines of the sinusoid first.
        downsample_padding: 0 pads below and right, as TensorFlow does; 1 all around.
        down_blocks: Kind of each encoder level: "" (plain), "Attn" (with attention) or
            "Resnet" (resampled by a residual block). () follows `attn_resolutions`.
        up_blocks: The same for the decoder, from the smallest level.
        resample_by: "conv" or "resnet", for (down, up), of the levels with attention.
        mid_block: Whether there is a bottleneck.
        mid_attention: Whether it has attention.
        mid_num_groups: Number of groups of the norm of that attention; None is
            `num_groups`, or no norm with `scale_shift`.
        mid_divisor: Divisor of every sum of branch and shortcut in the bottleneck.
        scale_shift: How residual blocks take the embedding; see `ResBlock`.
        center_input: The network sees 2 x - 1.

    The others are those of `Network`.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Luhman & Luhman 2021,
    arXiv:2101.02388; Dhariwal & Nichol 2021, arXiv:2105.05233, for `scale_shift` and
    resampling residual blocks.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1, num_groups=4)
        >>> module = networks.make("ddpm_unet", **fields)
        >>> x = jnp.zeros((2, 8, 8, 3))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2))
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 8, 8, 3), 41899)
    """

    channels: Count = 128
    channel_mult: tuple[Count, ...] = (1, 2, 2, 2)
    num_blocks: Count = 2
    attn_resolutions: tuple[Count, ...] = (16,)
    widths: tuple[Count, ...] = ()
    emb_channels: Count | None = None
    head_dim: Count | None = None
    num_groups: Count = 32
    norm_eps: Positive = 1e-6
    freq_shift: float = 1.0
    flip_sin_to_cos: bool = False
    downsample_padding: Whole = 0
    down_blocks: tuple[str, ...] = ()
    up_blocks: tuple[str, ...] = ()
    resample_by: tuple[str, str] = ("conv", "conv")
    mid_block: bool = True
    mid_attention: bool = True
    mid_num_groups: Count | None = None
    mid_divisor: Positive = 1.0
    scale_shift: bool = False
    center_input: bool = False

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        block_class = nn.remat(ResBlock) if self.remat else ResBlock
        attention_class = nn.remat(Attention) if self.remat else Attention
        emb = self.embed(c_noise, cond)
        norms: dict[str, Any] = dict(num_groups=self.num_groups, norm_eps=self.norm_eps)
        widths = self.widths or [self.channels * m for m in self.channel_mult]
        levels = len(widths)

        def conv(h, name, width, **keywords):
            convs: dict[str, Any] = dict(kernel_init=XAVIER, dtype=self.dtype)
            return nn.Conv(width, (3, 3), name=name, **(convs | keywords))(h)

        def block(h, name, width, **keywords):
            fields: dict[str, Any] = dict(norms, dropout=self.dropout, dtype=self.dtype)
            fields |= dict(scale_shift=self.scale_shift) | keywords
            return block_class(width, **fields, name=name)(h, emb, keys)

        def attention(h, name, **keywords):
            fields: dict[str, Any] = norms | dict(dtype=self.dtype) | keywords
            return attention_class(self.head_dim, **fields, name=name)(h)

        def kind(blocks, level, h):
            """ "", "Attn" or "Resnet"."""
            if blocks:
                return blocks[level]
            return "Attn" if h.shape[1] in self.attn_resolutions else ""

        def by_resnet(kind, way):
            return kind == "Resnet" or (kind, way) == ("Attn", "resnet")

        x = 2 * x - 1 if self.center_input else x
        h = conv(x, "conv_in", self.channels)
        skips, features = [h], []
        for level, width in enumerate(widths):
            prefix = f"down_blocks_{level}"
            now = kind(self.down_blocks, level, h)
            for i in range(self.num_blocks):
                h = block(h, f"{prefix}_resnets_{i}", width)
                if now == "Attn":
                    h = attention(h, f"{prefix}_attentions_{i}")
                skips.append(h)
            features.append(h)
            if level < levels - 1:
                name = f"{prefix}_downsamplers_0"
                if by_resnet(now, self.resample_by[0]):
                    h = block(h, name, width, resample="down")
                else:
                    pad = (self.downsample_padding, 1)
                    h = conv(h, f"{name}_conv", width, strides=2, padding=(pad, pad))
                skips.append(h)

        if self.mid_block:
            divided = dict(divisor=self.mid_divisor)
            h = block(h, "mid_block_resnets_0", widths[-1], **divided)
            if self.mid_attention:
                groups = self.mid_num_groups
                if groups is None and not self.scale_shift:
                    groups = self.num_groups
                h = attention(h, "mid_block_attentions_0", num_groups=groups, **divided)
            h = block(h, "mid_block_resnets_1", widths[-1], **divided)
        features.append(h)

        ups = []
        for level, width in enumerate(reversed(widths)):
            prefix = f"up_blocks_{level}"
            now = kind(self.up_blocks, level, h)
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, f"{prefix}_resnets_{i}", width)
                if now == "Attn":
                    h = attention(h, f"{prefix}_attentions_{i}")
            ups.append(h)
            if level < levels - 1:
                name = f"{prefix}_upsamplers_0"
                if by_resnet(now, self.resample_by[1]):
                    h = block(h, name, width, resample="up")
                else:
                    h = conv(layers.upsample(h), f"{name}_conv", width)

        h = layers.group_norm(
            h.shape[-1],
            name="conv_norm_out",
            num_groups=self.num_groups,
            eps=self.norm_eps,
        )(h)
        out = conv(nn.silu(h), "conv_out", self.out_channels, kernel_init=SMALL)
        return out.astype(jnp.float32), features, ups

    def embed(self, t, cond):
        """f32[B, E]: Dense, silu, Dense of the time; plus the labels."""
        width = self.emb_channels or 4 * self.channels
        emb = layers.sinusoid(t, self.channels, freq_shift=self.freq_shift)
        if self.flip_sin_to_cos:
            emb = jnp.roll(emb, self.channels // 2, axis=-1)
        for i in (1, 2):
            emb = nn.silu(emb) if i == 2 else emb
            dense = nn.Dense(
                width, kernel_init=XAVIER, name=f"time_embedding_linear_{i}"
            )
            emb = dense(emb)
        emb = self.add_guidance(emb, cond.guidance)
        if self.width_of_rows:
            emb = emb + nn.Dense(width, use_bias=False, name="class_embedding")(
                cond.rows
            )
        if self.augment_dim:
            emb = emb + nn.Dense(width, use_bias=False, name="augment_embedding")(
                cond.augment
            )
        return emb


make = DdpmUNet
