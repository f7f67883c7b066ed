"""A network on points: images of one pixel, for toys in the plane."""

import flax.linen as nn
import jax.numpy as jnp

from kdiff_jax.arguments import Count
from kdiff_jax.errors import ConfigError
from kdiff_jax.networks import layers
from kdiff_jax.networks.network import Network

REVISION = 1  # see `networks.revision`


class Mlp(Network):
    """Dense layers with silu on x, sines of c_noise and the label.

    Attributes:
        channels: Width of every hidden layer.
        num_blocks: Number of hidden layers.
        channel_mult, attn_resolutions: Fields of U-Nets; the defaults mean one level
            without attention.

    The others are those of `Network`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> module = networks.make("mlp", out_channels=2)
        >>> x = jnp.zeros((2, 1, 1, 2))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2))
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 1, 1, 2), 10690)
    """

    channels: Count = 64
    channel_mult: tuple[Count, ...] = (1,)
    num_blocks: Count = 3
    attn_resolutions: tuple[Count, ...] = ()

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        del keys
        if x.shape[1:3] != (1, 1) or self.dropout or self.augment_dim:
            raise ConfigError(
                f"images of {x.shape[1]}x{x.shape[2]}: 'mlp' is for points, images of"
                " one pixel, without dropout and augmentation; take a U-Net"
            )
        # EDM's c_noise is small; 20 of it turn the slowest sine by half a turn or so.
        times = layers.sinusoid(20 * c_noise, 32)
        h = jnp.concatenate([x[:, 0, 0], times, cond.rows], axis=-1)
        for i in range(self.num_blocks):
            h = nn.Dense(self.channels, dtype=self.dtype, name=f"dense_{i}")(h)
            h = nn.silu(h if i else self.add_guidance(h, cond.guidance))
        out = nn.Dense(self.out_channels, dtype=self.dtype, name="dense_out")(h)
        features = [h[:, None, None]] * 2
        return out[:, None, None].astype(jnp.float32), features, features[:1]


make = Mlp
