"""The U-Net of Stable Diffusion 1.x, 2.x, XL and their smaller students.

diffusers' `UNet2DConditionModel`. Parameters have its names, with `_` for the dots
inside a block's own name and before numbers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kdiff_jax.arguments import Count, Positive, Whole
from kdiff_jax.errors import ConfigError
from kdiff_jax.networks import layers
from kdiff_jax.networks.ddpm_layers import SMALL, XAVIER, ResBlock
from kdiff_jax.networks.network import Network
from kdiff_jax.networks.transformer2d import Transformer2D

REVISION = 1  # see `networks.revision`
# Paths of the leaves that GDD-I freezes, see `freeze`.
CONVOLUTIONS = (
    r"(down|mid|up)[^/]*/(conv[12]|(.*/attn[12]/to|proj)_out(_0)?)/[^/]+"
    r"|[^/]*(down|up)samplers_\d+_conv/[^/]+"
)
Depths = tuple[Whole | tuple[Count, ...], ...]


class UNet2DCondition(Network):
    """F(x, index, text). The defaults are SD 1.5's, with `cond_dim=768` 859,520,964.

    The text is its encoder's states, f32[B, L, cond_dim], of any length L; of a network
    with `added_dim` (SDXL) a dict of these as `context`, of `text_embeds`, f32[B, P],
    and of `time_ids`, f32[B, n]: sizes and crops. None is zeros, which no text is.

    Attributes:
        num_blocks: Residual blocks of each encoder level, or one number a level; the
            decoder's have one more.
        widths: Channels of each level, where those are no multiples of `channels`; ()
            is `channels * channel_mult[i]`.
        depths: Transformer blocks behind each residual block of an encoder level, or
            one number a residual block; 0 for a level without transformers.
        up_depths: The same for the decoder, from the smallest level; () for those of
            the encoder.
        mid_depth: Transformer blocks of the bottleneck; 0 is one residual block alone,
            None no bottleneck.
        num_heads: Heads of each attention, or one number a level.
        linear_projection: Dense layers around transformers in place of 1x1 convolutions
            (SD 2.x, SDXL).
        added_dim: P and n times `added_time_dim`, entries of what SDXL reads beside the
            text; 0 for none.
        added_time_dim: Features of each of `time_ids`.
        emb_channels: Width of the embedding; None is 4 `channels`.
        num_groups: Groups of each norm.
        norm_eps: Epsilon of the norms outside of transformers.
        freq_shift: Frequency shift of the sinusoids; see `layers.sinusoid`.
        flip_sin_to_cos: Puts the cosines of the sinusoids first.
        downsample_padding: 1 pads all around; 0 below and right.
        mid_divisor: Divisor of the sum of branch and shortcut in the bottleneck's
            residual blocks.
        scale_shift: How residual blocks take the embedding; see `ResBlock`.
        center_input: The network sees 2 x - 1.
        attn_resolutions, num_classes, augment_dim: Fields of other networks, not read.

    The others are those of `Network`.

    Source: Rombach et al. 2022, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952,
    for SDXL; Kim et al. 2023, arXiv:2305.15798, for the smaller ones.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1, depths=(1, 0))
        >>> fields |= dict(num_heads=2, num_groups=4, cond_dim=16)
        >>> module = networks.make("unet2d_condition", **fields)
        >>> text = jnp.zeros((2, 77, 16))
        >>> x = jnp.zeros((2, 8, 8, 4))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2), text)
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 8, 8, 4), 52004)
    """

    channels: Count = 320
    channel_mult: tuple[Count, ...] = (1, 2, 4, 4)
    num_blocks: Count | tuple[Count, ...] = 2  # pyright: ignore
    attn_resolutions: tuple[Count, ...] = ()
    out_channels: Count = 4
    widths: tuple[Count, ...] = ()
    depths: Depths = (1, 1, 1, 0)
    up_depths: Depths = ()
    mid_depth: Whole | None = 1
    num_heads: Count | tuple[Count, ...] = 8
    linear_projection: bool = False
    added_dim: Whole = 0
    added_time_dim: Count = 256
    emb_channels: Count | None = None
    num_groups: Count = 32
    norm_eps: Positive = 1e-5
    freq_shift: float = 0.0
    flip_sin_to_cos: bool = True
    downsample_padding: Whole = 1
    mid_divisor: Positive = 1.0
    scale_shift: bool = False
    center_input: bool = False

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        block_class = nn.remat(ResBlock) if self.remat else ResBlock
        transformer_class = nn.remat(Transformer2D) if self.remat else Transformer2D
        emb, context = self.embed(c_noise, cond), cond.rows.astype(self.dtype)
        widths = self.widths or [self.channels * m for m in self.channel_mult]
        levels = len(widths)
        num_blocks = self.per_level("num_blocks", self.num_blocks)
        num_heads = self.per_level("num_heads", self.num_heads)
        depths = self.per_level("depths", self.depths)
        up_depths = self.per_level("up_depths", self.up_depths or depths[::-1])

        def conv(h, name, width, **keywords):
            convs: dict[str, Any] = dict(kernel_init=XAVIER, dtype=self.dtype)
            return nn.Conv(width, (3, 3), name=name, **(convs | keywords))(h)

        def block(h, name, width, divisor=1.0):
            fields = (width, self.dropout, self.num_groups, self.norm_eps, self.dtype)
            more: dict[str, Any] = dict(scale_shift=self.scale_shift, divisor=divisor)
            return block_class(*fields, **more, name=name)(h, emb, keys)

        def transformer(h, name, heads, depth):
            fields = (heads, depth, self.linear_projection, self.num_groups, self.dtype)
            return transformer_class(*fields, name=name)(h, context)

        x = 2 * x - 1 if self.center_input else x
        h = conv(x, "conv_in", self.channels)
        skips, features = [h], []
        for level, width in enumerate(widths):
            prefix, depth = f"down_blocks_{level}", depths[level]
            for i, deep in enumerate(_each(depth, num_blocks[level])):
                h = block(h, f"{prefix}_resnets_{i}", width)
                if deep:
                    name = f"{prefix}_attentions_{i}"
                    h = transformer(h, name, num_heads[level], deep)
                skips.append(h)
            features.append(h)
            if level < levels - 1:
                pad = (self.downsample_padding, 1)
                stride: dict[str, Any] = dict(strides=2, padding=(pad, pad))
                h = conv(h, f"{prefix}_downsamplers_0_conv", width, **stride)
                skips.append(h)

        if self.mid_depth is not None:
            h = block(h, "mid_block_resnets_0", widths[-1], self.mid_divisor)
            if self.mid_depth:
                name = "mid_block_attentions_0"
                h = transformer(h, name, num_heads[-1], self.mid_depth)
                h = block(h, "mid_block_resnets_1", widths[-1], self.mid_divisor)
        features.append(h)

        ups = []
        for up, level in enumerate(reversed(range(levels))):
            prefix, width = f"up_blocks_{up}", widths[level]
            for i, deep in enumerate(_each(up_depths[up], num_blocks[level] + 1)):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, f"{prefix}_resnets_{i}", width)
                if deep:
                    name = f"{prefix}_attentions_{i}"
                    h = transformer(h, name, num_heads[level], deep)
            ups.append(h)
            if level:
                h = conv(layers.upsample(h), f"{prefix}_upsamplers_0_conv", width)

        norms: dict[str, Any] = dict(num_groups=self.num_groups, eps=self.norm_eps)
        h = layers.group_norm(h.shape[-1], name="conv_norm_out", **norms)(h)
        out = conv(nn.silu(h), "conv_out", self.out_channels, kernel_init=SMALL)
        return out.astype(jnp.float32), features, ups

    def embed(self, t, cond):
        """f32[B, E]: Dense, silu, Dense of the time; plus those of what is added."""
        width = self.emb_channels or 4 * self.channels

        def dense(h, name):
            return nn.Dense(width, kernel_init=XAVIER, name=name)(h)

        def embedding(h, name):
            return dense(nn.silu(dense(h, f"{name}_linear_1")), f"{name}_linear_2")

        emb = embedding(self.sinusoid(t, self.channels), "time_embedding")
        emb = self.add_guidance(emb, cond.guidance)
        if self.added_dim:
            emb = emb + embedding(cond.added, "add_embedding")
        return emb

    def sinusoid(self, t, dim):
        """f32[B, dim] of f32[B]."""
        found = layers.sinusoid(t, dim, freq_shift=self.freq_shift)
        return jnp.roll(found, dim // 2, axis=-1) if self.flip_sin_to_cos else found

    def conditioning(self, x, y, augment, guidance):
        """As in `Network`; `rows` is the text f32[B, L, D], `added` f32[B, added_dim].

        Raises:
            ConfigError: If the text has other parts, or widths, than the network reads.
        """
        cond = super().conditioning(x, None, augment, guidance)
        if y is None:
            rows = jnp.zeros((len(x), 1, self.cond_dim))
            return cond._replace(rows=rows, added=jnp.zeros((len(x), self.added_dim)))
        parts = ("context", *(("text_embeds", "time_ids") if self.added_dim else ()))
        given = y if isinstance(y, Mapping) else {"context": y}
        if set(given) != set(parts):
            raise ConfigError(
                f"y: has {', '.join(given)}; this network reads {', '.join(parts)}"
            )
        context = given["context"]
        if context.ndim != 3 or context.shape[-1] != self.cond_dim:
            raise ConfigError(
                f"y: a text of {list(context.shape)}; this network reads states"
                f" [images, tokens, {self.cond_dim}]"
            )
        if not self.added_dim:
            return cond._replace(rows=context)
        return cond._replace(rows=context, added=self.added(**given))

    def added(self, *, context, text_embeds, time_ids):
        """f32[B, added_dim]: the pooled text, and sinusoids of sizes and crops."""
        batch, count = time_ids.shape
        times = self.sinusoid(time_ids.reshape(-1), self.added_time_dim)
        found = jnp.concatenate([text_embeds, times.reshape(batch, -1)], axis=-1)
        if found.shape[-1] != self.added_dim:
            raise ConfigError(
                f"y: text_embeds of {text_embeds.shape[-1]} and {count} time_ids; this"
                f" network reads {self.added_dim} - {count} x {self.added_time_dim} ="
                f" {self.added_dim - count * self.added_time_dim} of the first"
            )
        return found

    @property
    def has_bottleneck(self) -> bool:
        return self.mid_depth is not None

    def per_level(self, name: str, value) -> tuple:
        """A field that says one thing for all levels, or one for each."""
        levels = len(self.widths or self.channel_mult)
        value = (value,) * levels if isinstance(value, int) else value
        if len(value) != levels:
            raise ConfigError(
                f"{name}={value}: the network has {levels} levels (channel_mult); give"
                " one entry for each"
            )
        return tuple(value)


def _each(depth: int | tuple[int, ...], count: int) -> tuple[int, ...]:
    """The depth behind each of `count` residual blocks."""
    found = (depth,) * count if isinstance(depth, int) else depth
    if len(found) != count:
        raise ConfigError(f"depths={depth}: is for a level of {count} residual blocks")
    return found


make = UNet2DCondition
