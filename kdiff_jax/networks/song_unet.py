"""SongUNet: DDPM++ and NCSN++ as Karras et al. retrained them.

Parameters have NVlabs/edm's names, with `_` for the first dot: `enc_16x16_block0`.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdiff_jax.arguments import Count
from kdiff_jax.errors import ConfigError
from kdiff_jax.networks import edm_layers, layers
from kdiff_jax.networks.edm_layers import SONG, UNetBlock, conv, dense, group_norm
from kdiff_jax.networks.network import Network

REVISION = 1  # see `networks.revision`
CLASS_LAYER = "map_label"  # reads one-hot labels
ALTERNATING, CONVOLUTIONS = edm_layers.ALTERNATING, edm_layers.CONVOLUTIONS


class SongUNet(Network):
    """F(x, c_noise, y). The defaults are DDPM++ of CIFAR-10 (unconditional), 55.73 M.

    NCSN++ is embedding="fourier", noise_mult=2, encoder="residual", taps=(1, 3, 3, 1).

    Attributes:
        channels: Width of the first convolution; level i: `channels * channel_mult[i]`.
        channel_mult: See `channels`. At 64x64: (1, 2, 2, 2).
        emb_mult: The embedding has `channels * emb_mult` features.
        noise_mult: The noise level's has `channels * noise_mult`.
        attn_resolutions: Image sizes (heights, in pixels) with attention: in all blocks
            of the encoder, in the last one of the decoder.
        embedding: "positional" or "fourier".
        encoder: How smaller copies of the input enter: "standard" (they do not), "skip"
            or "residual".
        decoder: "standard", or "skip": the output is a sum over levels.
        taps: Taps of the resampling filter.

    The others are those of `Network`.

    Raises:
        ConfigError: If there is no such embedding, encoder or decoder.

    Source: Song et al. 2021, arXiv:2011.13456; Karras et al. 2022, arXiv:2206.00364,
    appendix F.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1)
        >>> ncsn = dict(embedding="fourier", noise_mult=2, encoder="residual")
        >>> module = networks.make("song_unet", **fields, **ncsn, taps=(1, 3, 3, 1))
        >>> x = jnp.zeros((2, 8, 8, 3))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2))
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 8, 8, 3), 46523)
    """

    channels: Count = 128
    channel_mult: tuple[Count, ...] = (2, 2, 2)
    emb_mult: Count = 4
    noise_mult: Count = 1
    num_blocks: Count = 4
    attn_resolutions: tuple[Count, ...] = (16,)
    embedding: str = "positional"
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[int, ...] = (1, 1)

    def __post_init__(self):
        for field, known in (
            ("embedding", ("positional", "fourier")),
            ("encoder", ("standard", "skip", "residual")),
            ("decoder", ("standard", "skip")),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ConfigError(
                    f"{field}={value!r}: must be one of {', '.join(known)}"
                )
        super().__post_init__()

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        emb = self.embed(c_noise, cond)
        block_class = nn.remat(UNetBlock) if self.remat else UNetBlock

        def block(h, name, width, *, attention=False, resample=""):
            module = block_class(
                width,
                SONG,
                self.dropout,
                attention,
                resample,
                self.taps,
                self.dtype,
                name=name,
            )
            return module(h, emb, keys)

        sizes = [x.shape[1] >> level for level in range(len(self.channel_mult))]
        names = [f"{size}x{size}" for size in sizes]
        last = len(names) - 1

        aux = x.astype(self.dtype)
        h = conv(aux, self.channels, f"enc_{names[0]}_conv", SONG, dtype=self.dtype)
        skips, features = [h], []
        for level, mult in enumerate(self.channel_mult):
            enc = f"enc_{names[level]}"
            if level > 0:
                h = block(h, f"{enc}_down", h.shape[-1], resample="down")
                h, aux = self.join(h, aux, enc)
                skips.append(h)
            for i in range(self.num_blocks):
                attention = sizes[level] in self.attn_resolutions
                width = self.channels * mult
                h = block(h, f"{enc}_block{i}", width, attention=attention)
                skips.append(h)
            features.append(h)

        h = block(h, f"dec_{names[last]}_in0", h.shape[-1], attention=True)
        h = block(h, f"dec_{names[last]}_in1", h.shape[-1])
        features.append(h)

        outs, ups = [], []
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            dec = f"dec_{names[level]}"
            if level < last:
                h = block(h, f"{dec}_up", h.shape[-1], resample="up")
            for i in range(self.num_blocks + 1):
                # On the way up, only the last block of a level attends.
                attention = (
                    i == self.num_blocks and sizes[level] in self.attn_resolutions
                )
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                width = self.channels * mult
                h = block(h, f"{dec}_block{i}", width, attention=attention)
            ups.append(h)
            if level == 0 or self.decoder == "skip":
                part = nn.silu(group_norm(h, f"{dec}_aux_norm", SONG))
                part = conv(
                    part,
                    self.out_channels,
                    f"{dec}_aux_conv",
                    SONG,
                    scale=SONG.scale_last,
                    dtype=self.dtype,
                ).astype(jnp.float32)
                outs.append(
                    part + layers.upsample(outs[-1], self.taps) if outs else part
                )
        return outs[-1], features, ups

    def join(self, h, aux, enc):
        """Adds a smaller copy of the input, `aux`, to what a block has down-sampled."""
        if self.encoder == "skip":
            aux = layers.downsample(aux, self.taps)
            name = f"{enc}_aux_skip"
            h = h + conv(aux, h.shape[-1], name, SONG, size=1, dtype=self.dtype)
        elif self.encoder == "residual":
            # Convolution and filter as one: both pads come first, so that the filter
            # never reads the zeros around the convolution's output.
            pad = (len(self.taps) - 1) // 2
            name = f"{enc}_aux_residual"
            aux = conv(aux, h.shape[-1], name, SONG, pad=1 + pad, dtype=self.dtype)
            aux = layers.depthwise(aux, self.taps, stride=2)
            h = aux = (h + aux) / math.sqrt(2)
        return h, aux

    def embed(self, c_noise, cond):
        """f32[B, E]: both Dense layers follow the sum of noise level and labels."""
        width = self.channels * self.noise_mult
        if self.embedding == "fourier":
            emb = layers.Fourier(width, name="map_noise")(c_noise)
        else:
            emb = layers.sinusoid(c_noise, width)
        if self.width_of_rows:
            # Entries of about unit size, as those of vectors are meant to be.
            unit = 1.0 if self.cond_dim else math.sqrt(self.num_classes)
            emb = emb + dense(cond.rows * unit, width, "map_label", SONG)
        if self.augment_dim:
            emb = emb + dense(cond.augment, width, "map_augment", SONG, use_bias=False)
        width = self.channels * self.emb_mult
        emb = nn.silu(dense(emb, width, "map_layer0", SONG))
        emb = dense(emb, width, "map_layer1", SONG)
        return nn.silu(self.add_guidance(emb, cond.guidance))


make = SongUNet
