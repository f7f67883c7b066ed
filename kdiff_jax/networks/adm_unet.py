"""ADM: the U-Net of Dhariwal & Nichol in the form in which Karras et al. retrained it.

Parameters have NVlabs/edm's names, with `_` for the first dot: `enc_16x16_block0`.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdiff_jax.arguments import Count, Whole
from kdiff_jax.networks import edm_layers, layers
from kdiff_jax.networks.edm_layers import ADM, UNetBlock, conv, dense, group_norm
from kdiff_jax.networks.network import Network

REVISION = 1  # see `networks.revision`
CLASS_LAYER = "map_label"  # reads one-hot labels
ALTERNATING, CONVOLUTIONS = edm_layers.ALTERNATING, edm_layers.CONVOLUTIONS


class AdmUNet(Network):
    """F(x, c_noise, y). The defaults are its ImageNet 64x64 network, 295.90 M.

    Heads have 64 channels. As that network, `num_classes` is 1000 by default.

    Attributes:
        emb_mult: The embedding has `channels * emb_mult` features.

    The others are those of `Network`.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233; Karras et al. 2022,
    arXiv:2206.00364, appendix F.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1, num_classes=10)
        >>> module = networks.make("adm_unet", **fields)
        >>> x = jnp.zeros((2, 8, 8, 3))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2))
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 8, 8, 3), 49115)
    """

    channels: Count = 192
    channel_mult: tuple[Count, ...] = (1, 2, 3, 4)
    emb_mult: Count = 4
    num_blocks: Count = 3
    attn_resolutions: tuple[Count, ...] = (32, 16, 8)
    num_classes: Whole = 1000

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        emb = self.embed(c_noise, cond)
        block_class = nn.remat(UNetBlock) if self.remat else UNetBlock

        def block(h, name, width, *, attention=False, resample=""):
            module = block_class(
                width,
                ADM,
                self.dropout,
                attention,
                resample,
                dtype=self.dtype,
                name=name,
            )
            return module(h, emb, keys)

        sizes = [x.shape[1] >> level for level in range(len(self.channel_mult))]
        names = [f"{size}x{size}" for size in sizes]
        attends = [size in self.attn_resolutions for size in sizes]
        widths = [self.channels * mult for mult in self.channel_mult]
        last = len(names) - 1

        h = conv(x, widths[0], f"enc_{names[0]}_conv", ADM, dtype=self.dtype)
        skips, features = [h], []
        for level in range(last + 1):
            enc = f"enc_{names[level]}"
            if level > 0:
                h = block(h, f"{enc}_down", h.shape[-1], resample="down")
                skips.append(h)
            for i in range(self.num_blocks):
                name = f"{enc}_block{i}"
                h = block(h, name, widths[level], attention=attends[level])
                skips.append(h)
            features.append(h)

        h = block(h, f"dec_{names[last]}_in0", h.shape[-1], attention=True)
        h = block(h, f"dec_{names[last]}_in1", h.shape[-1])
        features.append(h)

        ups = []
        for level in reversed(range(last + 1)):
            dec = f"dec_{names[level]}"
            if level < last:
                h = block(h, f"{dec}_up", h.shape[-1], resample="up")
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                name = f"{dec}_block{i}"
                h = block(h, name, widths[level], attention=attends[level])
            ups.append(h)

        h = nn.silu(group_norm(h, "out_norm", ADM))
        out = conv(
            h,
            self.out_channels,
            "out_conv",
            ADM,
            scale=ADM.scale_last,
            dtype=self.dtype,
        )
        return out.astype(jnp.float32), features, ups

    def embed(self, c_noise, cond):
        """f32[B, E]; the class enters between the second Dense layer and its silu."""
        width = self.channels * self.emb_mult
        emb = layers.sinusoid(c_noise, self.channels, freq_shift=0.0)
        emb = jnp.roll(emb, self.channels // 2, axis=-1)  # the cosines come first
        if self.augment_dim:
            emb = emb + dense(
                cond.augment,
                self.channels,
                "map_augment",
                ADM,
                scale=0.0,
                use_bias=False,
            )
        emb = nn.silu(dense(emb, width, "map_layer0", ADM))
        emb = dense(emb, width, "map_layer1", ADM)
        emb = self.add_guidance(emb, cond.guidance)
        if self.width_of_rows:
            emb = emb + dense(
                cond.rows,
                width,
                "map_label",
                ADM,
                init="kaiming_normal",
                scale=math.sqrt(self.width_of_rows),
                use_bias=False,
            )
        return nn.silu(emb)


make = AdmUNet
