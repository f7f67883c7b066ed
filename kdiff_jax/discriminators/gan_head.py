"""DMD2's discriminator: a small head on the features of a denoiser's encoder."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.errors import ConfigError

# PyTorch's default for convolutions, U(-b, b) with b = 1 / sqrt(fan_in).
KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class GanHead(nn.Module):
    """One logit per example, high for real; a float32 whatever it computes in.

    A 4x4 convolution of stride 2, one over all that remains (4x4 for the paper's 8x8
    features), and a linear layer, with norm and silu between.

    Attributes:
        num_groups: Number of groups of each GroupNorm. Fewer where it does not divide
            the channels, or leaves a group one channel, which its norm would cancel.
        dtype: Type of the convolutions' operands.

    Source: Yin et al. 2024, arXiv:2405.14867, and its released code.
    """

    num_groups: int = 32
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Float[Array, "B H W C"]) -> Float[Array, " B"]:
        _, height, width, channels = features.shape
        if min(height, width) < 2:
            raise ConfigError(
                f"features of {height}x{width}: the discriminator's head needs 2x2 at"
                " least; use a network with fewer levels"
            )
        groups = self.num_groups
        if channels % groups or channels // groups < 2:
            groups = math.gcd(groups, channels, max(channels // 2, 1))

        def norm(h, name):
            layer = nn.GroupNorm(
                groups,
                epsilon=1e-5,
                dtype=jnp.float32,
                # A group of the second norm may have two values, nearly the same.
                use_fast_variance=False,
                name=name,
            )
            return nn.silu(layer(h))

        def conv(h, width, size, name, **keywords):
            fields: dict[str, Any] = dict(
                kernel_init=KERNEL, dtype=self.dtype, name=name
            )
            return nn.Conv(width, size, **fields, **keywords)(h)

        h = features
        h = norm(conv(h, channels, (4, 4), "conv_0", strides=2, padding=1), "norm_0")
        h = conv(h, channels, h.shape[1:3], "conv_1", padding=0)
        h = conv(norm(h, "norm_1"), 1, (1, 1), "conv_2", padding=0)
        return h.reshape(len(h)).astype(jnp.float32)
