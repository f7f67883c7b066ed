"""The autoencoder of Stable Diffusion, diffusers' `AutoencoderKL`.

Images f32[B, H, W, 3] in [-1, 1] become the mean and log-variance of a Gaussian over
latents f32[B, H/8, W/8, 4]. What denoisers read are latents times a scaling factor,
which is no matter of the network: see `kdiff_jax.latent`.

Parameters have diffusers' names, with `_` for the dots inside a block's own name.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.arguments import Count
from kdiff_jax.networks import layers

EPSILON = 1e-6  # of all norms
LOGVAR = (-30.0, 20.0)  # range that the log-variance is clipped to
Dtype = Literal["float32", "bfloat16"]


class AutoencoderKL(nn.Module):
    """An autoencoder with a Gaussian over latents; the defaults are Stable Diffusion's.

    Attributes:
        widths: Channels of each level; each level is half the size of that before.
        num_blocks: Residual blocks per level of the encoder; one more in the decoder.
        in_channels: Channels of the images that are encoded.
        out_channels: Channels of the decoded images.
        latent_channels: Channels of the latents.
        num_groups: Groups of each norm; they must divide all widths.
        down_attention: Whether the blocks of each level of the encoder are followed by
            attention; () is nowhere.
        up_attention: The same for the decoder, from the smallest level.
        mid_attention: Whether the bottlenecks have attention.
        quant_conv: Whether a 1x1 convolution stands behind the encoder.
        post_quant_conv: Whether a 1x1 convolution stands before the decoder.
        dtype: Type of the activations and products; parameters are float32.
        remat: Recompute the blocks in the backward pass, to save memory.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G.
    """

    widths: tuple[Count, ...] = (128, 256, 512, 512)
    num_blocks: Count = 2
    in_channels: Count = 3
    out_channels: Count = 3
    latent_channels: Count = 4
    num_groups: Count = 32
    down_attention: tuple[bool, ...] = ()
    up_attention: tuple[bool, ...] = ()
    mid_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True
    dtype: Dtype = "float32"
    remat: bool = False

    def setup(self):
        shared = (self.num_groups, self.mid_attention, self.dtype, self.remat)
        moments = 2 * self.latent_channels
        self.encoder = Encoder(
            self.widths, self.num_blocks, moments, self.down_attention, *shared
        )
        self.decoder = Decoder(
            self.widths[::-1],
            self.num_blocks + 1,
            self.out_channels,
            self.up_attention,
            *shared,
        )
        if self.quant_conv:
            self.quant = _conv(moments, 1, self.dtype, "quant_conv")
        if self.post_quant_conv:
            self.post_quant = _conv(
                self.latent_channels, 1, self.dtype, "post_quant_conv"
            )

    @property
    def factor(self) -> int:
        """Side of the images over that of the latents."""
        return 2 ** (len(self.widths) - 1)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C2"]:
        """Reconstructions from the mean."""
        return self.decode(self.encode(images)[0])

    def encode(
        self, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        """Mean and log-variance of the latents, the latter clipped to `LOGVAR`.

        Args:
            images: Images in [-1, 1]; their sides are multiples of `factor`.
        """
        return split(self.moments(images))

    def moments(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w M"]:
        """Mean and log-variance in one array, not clipped; see `split`."""
        h = self.encoder(images)
        h = self.quant(h) if self.quant_conv else h
        return h.astype(jnp.float32)

    def decode(self, z: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """Images of latents that are not scaled; in [-1, 1] but for overshoots."""
        h = self.post_quant(z) if self.post_quant_conv else z
        return self.decoder(h).astype(jnp.float32)


def split(
    moments: Float[Array, "B h w M"],
) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w D"]]:
    """(mean, log-variance clipped to `LOGVAR`) of what `moments` gives."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR)


def draw(
    mean: Float[Array, "B h w D"],
    logvar: Float[Array, "B h w D"],
    noise: Float[Array, "B h w D"],
) -> Float[Array, "B h w D"]:
    """Latents of the Gaussian, of normal noise; not scaled."""
    return mean + jnp.exp(logvar / 2) * noise


class Encoder(nn.Module):
    """Levels of half the size each, a bottleneck, and a convolution to `out`.

    Attributes:
        widths: Channels of each level, from the largest images.
        num_blocks: Residual blocks per level.
        out: Channels of the result.
        attention: See `AutoencoderKL.down_attention`.
        num_groups, mid_attention, dtype, remat: See `AutoencoderKL`.
    """

    widths: tuple[int, ...]
    num_blocks: int
    out: int
    attention: tuple[bool, ...]
    num_groups: int
    mid_attention: bool
    dtype: Dtype
    remat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        h = _conv(self.widths[0], 3, self.dtype, "conv_in")(x)
        for level, width in enumerate(self.widths):
            prefix = f"down_blocks_{level}"
            h = _blocks(self, h, prefix, width, level)
            if level < len(self.widths) - 1:
                name = f"{prefix}_downsamplers_0_conv"
                # Below and right alone, as the original pads.
                pad = ((0, 1), (0, 1))
                h = _conv(width, 3, self.dtype, name, strides=2, padding=pad)(h)
        return _end(self, _middle(self, h))


class Decoder(nn.Module):
    """A bottleneck, levels of twice the size each, and a convolution to `out`.

    The attributes are those of `Encoder`, levels counted from the smallest images.
    """

    widths: tuple[int, ...]
    num_blocks: int
    out: int
    attention: tuple[bool, ...]
    num_groups: int
    mid_attention: bool
    dtype: Dtype
    remat: bool

    @nn.compact
    def __call__(self, z: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        h = _conv(self.widths[0], 3, self.dtype, "conv_in")(z)
        h = _middle(self, h)
        for level, width in enumerate(self.widths):
            prefix = f"up_blocks_{level}"
            h = _blocks(self, h, prefix, width, level)
            if level < len(self.widths) - 1:
                name = f"{prefix}_upsamplers_0_conv"
                h = _conv(width, 3, self.dtype, name)(layers.upsample(h))
        return _end(self, h)


class Block(nn.Module):
    """Twice norm, silu and convolution; + x, through a 1x1 where channels change."""

    width: int
    num_groups: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        h = x
        for i in (1, 2):
            h = nn.silu(_norm(h, self.num_groups, f"norm{i}"))
            h = _conv(self.width, 3, self.dtype, f"conv{i}")(h)
        if x.shape[-1] != self.width:
            x = _conv(self.width, 1, self.dtype, "conv_shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention of one head over the places of an image; + x."""

    num_groups: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        h = _norm(x, self.num_groups, "group_norm")
        q, k, v = (
            nn.Dense(channels, dtype=self.dtype, name=name)(h)[..., None, :]
            for name in ("to_q", "to_k", "to_v")
        )
        h = layers.attend(q, k, v)[..., 0, :]
        return x + nn.Dense(channels, dtype=self.dtype, name="to_out_0")(h)


def _blocks(part: Encoder | Decoder, h, prefix: str, width: int, level: int):
    """The blocks of one level, each with its attention."""
    block, attention = _classes(part)
    for i in range(part.num_blocks):
        name = f"{prefix}_resnets_{i}"
        h = block(width, part.num_groups, part.dtype, name=name)(h)
        if part.attention and part.attention[level]:
            name = f"{prefix}_attentions_{i}"
            h = attention(part.num_groups, part.dtype, name=name)(h)
    return h


def _middle(part: Encoder | Decoder, h):
    """The bottleneck."""
    block, attention = _classes(part)
    for i in range(2):
        if i and part.mid_attention:
            name = "mid_block_attentions_0"
            h = attention(part.num_groups, part.dtype, name=name)(h)
        name = f"mid_block_resnets_{i}"
        h = block(h.shape[-1], part.num_groups, part.dtype, name=name)(h)
    return h


def _end(part: Encoder | Decoder, h):
    h = nn.silu(_norm(h, part.num_groups, "conv_norm_out"))
    return _conv(part.out, 3, part.dtype, "conv_out")(h)


def _classes(part: Encoder | Decoder):
    """(Block, Attention), recomputed in the backward pass if so asked."""
    if part.remat:
        return nn.remat(Block), nn.remat(Attention)
    return Block, Attention


def _norm(x, num_groups: int, name: str):
    return layers.group_norm(
        x.shape[-1], num_groups=num_groups, eps=EPSILON, name=name
    )(x)


def _conv(width: int, size: int, dtype: Dtype, name: str, **keywords) -> nn.Conv:
    return nn.Conv(width, (size, size), dtype=dtype, name=name, **keywords)
