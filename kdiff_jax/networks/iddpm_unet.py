"""The U-Net of Progressive Distillation: BigGAN-style resampling, scale and shift.

Not the U-Net of Nichol & Dhariwal: that lineage in EDM's form is `adm_unet`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.arguments import Count
from kdiff_jax.networks import layers
from kdiff_jax.networks.network import Network
from kdiff_jax.types import Keys

ZEROS = nn.initializers.zeros

REVISION = 1  # see `networks.revision`
CLASS_LAYER = "class_emb"  # reads one-hot labels
# Paths of the leaves that GDD-I freezes, see `freeze`.
CONVOLUTIONS = r"(down|mid|up)[^/]*/(conv[12]|proj_out)/[^/]+"


class ResBlock(nn.Module):
    """norm, silu, [resample], conv, norm, scale and shift, silu, dropout, conv; + x."""

    out_channels: int
    dropout: float
    resample: str = ""  # "", "down" or "up"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        emb: Float[Array, "B E"],
        keys: Keys | None,
    ) -> Float[Array, "B H2 W2 C2"]:
        h = nn.silu(layers.group_norm(x.shape[-1], name="norm1")(x)).astype(self.dtype)
        if self.resample:
            change = {"down": layers.downsample, "up": layers.upsample}[self.resample]
            h, x = change(h), change(x)
        h = nn.Conv(self.out_channels, (3, 3), dtype=self.dtype, name="conv1")(h)
        modulation = nn.Dense(2 * self.out_channels, name="temb_proj")(nn.silu(emb))
        scale, shift = jnp.split(modulation[:, None, None, :], 2, axis=-1)
        h = layers.group_norm(self.out_channels, name="norm2")(h) * (1 + scale) + shift
        h = nn.silu(h).astype(self.dtype)
        h = layers.Dropout(self.dropout, name="dropout")(h, keys)
        h = nn.Conv(
            self.out_channels, (3, 3), kernel_init=ZEROS, dtype=self.dtype, name="conv2"
        )(h)
        if x.shape[-1] != self.out_channels:
            x = nn.Dense(self.out_channels, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over the places of an image; + x."""

    num_heads: Count
    head_dim: Count | None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        dim = self.head_dim or channels // self.num_heads
        heads = channels // dim
        h = layers.group_norm(channels, name="norm")(x).astype(self.dtype)
        q, k, v = (
            nn.DenseGeneral((heads, dim), dtype=self.dtype, name=name)(h)
            for name in "qkv"
        )
        h = nn.DenseGeneral(
            channels,
            axis=(-2, -1),
            kernel_init=ZEROS,
            dtype=self.dtype,
            name="proj_out",
        )(layers.attend(q, k, v))
        return x + h


class IddpmUNet(Network):
    """F(x, logsnr, y) of "unet_iddpm". The defaults are its CIFAR-10 network, 60.00 M.

    Attributes:
        emb_channels: Width of the embedding of time and label.
        num_heads: Heads of each attention; ignored when `head_dim` is given.
        head_dim: Channels per head.

    The others are those of `Network`.

    Source: Salimans & Ho 2022, arXiv:2202.00512, appendix; parameters are named as in
    google-research/diffusion_distillation.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> fields = dict(channels=32, channel_mult=(1, 2), num_blocks=1)
        >>> module = networks.make("iddpm_unet", emb_channels=32, **fields)
        >>> x = jnp.zeros((2, 8, 8, 3))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2))
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 8, 8, 3), 673123)
    """

    channels: Count = 256
    emb_channels: Count = 1024
    channel_mult: tuple[Count, ...] = (1, 1, 1)
    num_blocks: Count = 3
    attn_resolutions: tuple[Count, ...] = (8, 16)
    num_heads: Count = 1
    head_dim: Count | None = None

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        block_class = nn.remat(ResBlock) if self.remat else ResBlock
        attention_class = nn.remat(Attention) if self.remat else Attention
        emb = self.embed(c_noise, cond)

        def block(h, name, width, resample=""):
            module = block_class(width, self.dropout, resample, self.dtype, name=name)
            return module(h, emb, keys)

        def attention(h, name):
            module = attention_class(
                self.num_heads, self.head_dim, self.dtype, name=name
            )
            return module(h)

        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(x)
        skips, features = [h], []
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_blocks):
                h = block(h, f"down_{level}.block_{i}", self.channels * mult)
                if h.shape[1] in self.attn_resolutions:
                    h = attention(h, f"down_{level}.attn_{i}")
                skips.append(h)
            features.append(h)
            if level < len(self.channel_mult) - 1:
                h = block(h, f"down_{level}.downsample", h.shape[-1], "down")
                skips.append(h)

        h = block(h, "mid.block_1", h.shape[-1])
        h = attention(h, "mid.attn_1")
        h = block(h, "mid.block_2", h.shape[-1])
        features.append(h)

        ups = []
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, f"up_{level}.block_{i}", self.channels * mult)
                if h.shape[1] in self.attn_resolutions:
                    h = attention(h, f"up_{level}.attn_{i}")
            ups.append(h)
            if level > 0:
                h = block(h, f"up_{level}.upsample", h.shape[-1], "up")

        h = nn.silu(layers.group_norm(h.shape[-1], name="norm_out")(h))
        out = nn.Conv(
            self.out_channels,
            (3, 3),
            kernel_init=ZEROS,
            dtype=self.dtype,
            name="conv_out",
        )(h)
        return out.astype(jnp.float32), features, ups

    def embed(self, logsnr, cond):
        """f32[B, E]: Dense, silu, Dense of the time; plus the labels."""
        # u in [0, 1] undoes the cosine schedule: u is the time whose logsnr this is.
        u = jnp.arctan(jnp.exp(-0.5 * jnp.clip(logsnr, -20.0, 20.0))) / (0.5 * jnp.pi)
        emb = layers.sinusoid(1000.0 * u, self.channels)
        emb = nn.Dense(self.emb_channels, name="dense0")(emb)
        emb = nn.Dense(self.emb_channels, name="dense1")(nn.silu(emb))
        emb = self.add_guidance(emb, cond.guidance)
        if self.width_of_rows:
            emb = emb + nn.Dense(self.emb_channels, name="class_emb")(cond.rows)
        if self.augment_dim:
            dense = nn.Dense(self.emb_channels, use_bias=False, name="augment_emb")
            emb = emb + dense(cond.augment)
        return emb


make = IddpmUNet
