"""The block that EDM's two networks share, and how they initialise; not a network.

Parameters have NVlabs/edm's names; the resampling filters are constants here.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.networks import layers
from kdiff_jax.types import Keys

ALTERNATING = "qkv"  # the layer whose outputs are q, k and v in turns
# Paths of the leaves that GDD-I freezes, see `freeze`.
CONVOLUTIONS = r"([^/]*_)?(block\d+|up|down|in\d+)/(conv[012]|proj)/[^/]+"


class Family(NamedTuple):
    """What differs between the blocks of SongUNet and ADM."""

    init: str  # a key of INITS
    scale: float  # times `init`, for kernels
    scale_last: float  # the same, for the last layer of each branch
    scale_qkv: float
    bias: float  # biases start in U(-b, b), b = bias sqrt(3 / fan_in)
    modulate: bool  # norm(h) (1 + scale) + shift; else norm(h + shift)
    project: bool  # a 1x1 convolution on every resampled shortcut
    skip_scale: float  # of each sum of a branch and its shortcut
    norm_eps: float
    head_dim: int | None  # None: one head


SONG = Family(
    init="xavier_uniform",
    scale=1.0,
    scale_last=1e-5,
    scale_qkv=math.sqrt(0.2),
    bias=0.0,
    modulate=False,
    project=True,
    skip_scale=math.sqrt(0.5),
    norm_eps=1e-6,
    head_dim=None,
)
ADM = Family(
    init="kaiming_uniform",
    scale=math.sqrt(1 / 3),
    scale_last=0.0,
    scale_qkv=math.sqrt(1 / 3),
    bias=math.sqrt(1 / 3),
    modulate=True,
    project=False,
    skip_scale=1.0,
    norm_eps=1e-5,
    head_dim=64,
)
INITS = {  # Without a gain for the activation, unlike others' "kaiming".
    "xavier_uniform": nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    "kaiming_uniform": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
    "kaiming_normal": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
}


def fan_init(mode: str, scale: float):
    """The initializer `mode` times `scale`."""
    if scale == 0:
        return nn.initializers.zeros
    return lambda *args: scale * INITS[mode](*args)


def bias_init(family: Family, scale: float, fan_in: int):
    """Biases are zero wherever the kernel is, and in SongUNet."""
    bound = family.bias * math.sqrt(3 / fan_in) if scale else 0.0
    return lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def dense(
    x: Float[Array, "B C"],
    width: int,
    name: str,
    family: Family,
    *,
    scale: float | None = None,
    init: str | None = None,
    use_bias: bool = True,
) -> Float[Array, "B width"]:
    """A Dense layer in float32, made and applied; `scale`, `init`: not the family's."""
    scale = family.scale if scale is None else scale
    return nn.Dense(
        width,
        use_bias=use_bias,
        kernel_init=fan_init(init or family.init, scale),
        bias_init=bias_init(family, scale, x.shape[-1]),
        name=name,
    )(x)


def conv(
    x: Float[Array, "B H W C"],
    width: int,
    name: str,
    family: Family,
    *,
    size: int = 3,
    pad: int | None = None,
    scale: float | None = None,
    dtype: str = "float32",
) -> Float[Array, "B H2 W2 width"]:
    """A size x size convolution, made and applied; `pad`, `scale`: not the usual."""
    scale = family.scale if scale is None else scale
    pad = size // 2 if pad is None else pad
    return nn.Conv(
        width,
        (size, size),
        padding=pad,
        kernel_init=fan_init(family.init, scale),
        bias_init=bias_init(family, scale, x.shape[-1] * size**2),
        dtype=dtype,
        name=name,
    )(x)


def group_norm(
    x: Float[Array, "B H W C"], name: str, family: Family
) -> Float[Array, "B H W C"]:
    """GroupNorm of at least four channels a group, made and applied, float32."""
    groups = max(min(32, x.shape[-1] // 4), 1)
    return layers.group_norm(
        x.shape[-1], name=name, num_groups=groups, eps=family.norm_eps
    )(x)


class UNetBlock(nn.Module):
    """norm, silu, [resample], conv, embedding, norm, silu, dropout, conv; attention.

    y = skip_scale (branch(x) + shortcut(x)), and then the same with attention.

    Attributes:
        family: SONG or ADM.
        resample: "", "down" or "up".
        taps: Taps of the resampling filter: (1, 1), or (1, 3, 3, 1) in NCSN++.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F.
    """

    out_channels: int
    family: Family
    dropout: float
    attention: bool = False
    resample: str = ""
    taps: tuple[int, ...] = (1, 1)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        emb: Float[Array, "B E"],
        keys: Keys | None,
    ) -> Float[Array, "B H2 W2 C2"]:
        family, width, dtype = self.family, self.out_channels, self.dtype
        h = nn.silu(group_norm(x, "norm0", family)).astype(dtype)
        if self.resample:
            change = {"down": layers.downsample, "up": layers.upsample}[self.resample]
            h, x = change(h, self.taps), change(x, self.taps)
        h = conv(h, width, "conv0", family, dtype=dtype)
        shift = dense(emb, width * (1 + family.modulate), "affine", family)
        shift = shift[:, None, None, :]
        if family.modulate:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = group_norm(h, "norm1", family) * (1 + scale) + shift
        else:
            h = group_norm(h + shift, "norm1", family)
        h = layers.Dropout(self.dropout, name="dropout")(nn.silu(h).astype(dtype), keys)
        h = conv(h, width, "conv1", family, scale=family.scale_last, dtype=dtype)
        if x.shape[-1] != width or (self.resample and family.project):
            x = conv(x, width, "skip", family, size=1, dtype=dtype)
        x = (h + x) * family.skip_scale
        # Where the channels are too few for one head, ADM has no attention.
        heads = width // family.head_dim if family.head_dim else 1
        if self.attention and heads:
            x = (self.attend(x, heads) + x) * family.skip_scale
        return x

    def attend(self, x, heads):
        """Self-attention over places; q, k and v alternate along the channels."""
        family, width = self.family, x.shape[-1]
        h = group_norm(x, "norm2", family).astype(self.dtype)
        h = conv(
            h,
            3 * width,
            "qkv",
            family,
            size=1,
            scale=family.scale_qkv,
            dtype=self.dtype,
        )
        q, k, v = jnp.moveaxis(h.reshape(*x.shape[:3], heads, -1, 3), -1, 0)
        h = layers.attend(q, k, v).reshape(x.shape)
        last = family.scale_last
        return conv(h, width, "proj", family, size=1, scale=last, dtype=self.dtype)
