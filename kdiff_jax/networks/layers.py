"""Pieces that the networks share: embeddings, norm, dropout, attention, resampling.

Networks compute in their `dtype`. Parameters, norms, softmax, outputs and embeddings of
time and label are float32 always: embeddings are less than 0.1 % of the work, and
neighbouring times would share one in bfloat16.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from kdiff_jax import rng
from kdiff_jax.networks.norms import GroupNorm
from kdiff_jax.types import Keys

MANY_LOGITS = 2**22  # of one head of one image
QUERIES, SHORT = 512, 64  # at a time, at most and at least


def sinusoid(
    t: Float[Array, " B"], dim: int, *, freq_shift: float = 1.0
) -> Float[Array, "B dim"]:
    """[sin(t f_i), cos(t f_i)] with f_i = 10000^(-i / (dim/2 - freq_shift)).

    Args:
        t: Index of a time, or the like; of order 1000 at most.
        dim: Even number of features.
        freq_shift: 1 makes the last frequency exactly 1/10000.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(1e4) / (half - freq_shift) * jnp.arange(half))
    angle = t[:, None].astype(jnp.float32) * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Fourier(nn.Module):
    """[sin(2 pi f_i t), cos(2 pi f_i t)] with fixed random f_i ~ N(0, scale^2).

    The frequencies are the leaf `freqs` of the parameters, so that a checkpoint brings
    its own; their gradient is zero, and `kdiff_jax.networks.trainable` masks them.

    Source: Song et al. 2021, arXiv:2011.13456, appendix C.
    """

    dim: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, t: Float[Array, " B"]) -> Float[Array, "B dim"]:
        freqs = self.param(
            "freqs", nn.initializers.normal(self.scale), (self.dim // 2,)
        )
        freqs = lax.stop_gradient(freqs)
        angle = t[:, None].astype(jnp.float32) * (2 * jnp.pi * freqs)[None, :]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def one_hot(
    y: Int[Array, " B"] | None, *, num_classes: int, batch: int
) -> Float[Array, "B num_classes"]:
    """Rows of the identity; a row of zeros where there is no label (-1, or y None)."""
    if y is None:
        return jnp.zeros((batch, num_classes))
    return jax.nn.one_hot(y, num_classes)


def group_norm(
    channels: int, *, name: str, num_groups: int = 32, eps: float = 1e-6
) -> GroupNorm:
    """GroupNorm in float32 of `num_groups` groups, where they divide the channels.

    Where they do not (tiny networks), fewer, so that a group has four channels or more.
    A group of one channel is legal, but cancels whatever was added to that channel.
    """
    if channels % num_groups:
        num_groups = math.gcd(num_groups, channels, max(channels // 4, 1))
    return GroupNorm(num_groups, epsilon=eps, name=name)


class Dropout(nn.Module):
    """Zeroes entries with probability `rate`, when keys are given.

    Each example's mask comes from its own key and the path of this layer: how the batch
    is split over devices cannot change it.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Keys | None) -> Array:
        if keys is None or self.rate == 0:
            return x
        keep = rng.bernoulli(keys, "/".join(self.path), 1 - self.rate, x.shape[1:])
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


def attend(
    q: Float[Array, "B H W N D"],
    k: Float[Array, "B H W N D"],
    v: Float[Array, "B H W N D"],
) -> Float[Array, "B H W N D"]:
    """softmax(q k^T / sqrt(D)) v over the H*W places, each of the N heads by itself."""
    flat = [a.reshape(a.shape[0], -1, *a.shape[3:]) for a in (q, k, v)]
    return jax.nn.dot_product_attention(*flat).reshape(v.shape)


def attend_to(
    q: Float[Array, "B T N D"],
    k: Float[Array, "B S N D"],
    v: Float[Array, "B S N D"],
) -> Float[Array, "B T N D"]:
    """softmax(q k^T / sqrt(D)) v, each of the N heads by itself.

    Where the logits of all queries are many, those of `QUERIES` at a time: at 64x64
    places and 8 heads they are 537 MB an image in float32. They are made again in the
    backward pass. Each query has its own softmax, so the result is the same.
    """
    batch, tokens, num_heads, head_dim = q.shape
    parts = tokens // max(n for n in range(1, QUERIES + 1) if tokens % n == 0)
    if tokens * k.shape[1] < MANY_LOGITS or parts * SHORT > tokens:
        return jax.nn.dot_product_attention(q, k, v)
    some = jnp.moveaxis(q.reshape(batch, parts, -1, num_heads, head_dim), 1, 0)
    run = jax.checkpoint(lambda part: jax.nn.dot_product_attention(part, k, v))
    return jnp.moveaxis(jax.lax.map(run, some), 0, 1).reshape(q.shape)


def downsample(
    x: Float[Array, "B H W C"], taps: tuple[int, ...] = (1, 1)
) -> Float[Array, "B H/2 W/2 C"]:
    """Half the size: filtered by the outer product of `taps`; (1, 1) averages 2x2."""
    batch, height, width, channels = x.shape
    if taps == (1, 1):
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        return x.mean((2, 4))
    pad = (len(taps) - 1) // 2
    return depthwise(x, taps, stride=2, padding=pad)


def upsample(
    x: Float[Array, "B H W C"], taps: tuple[int, ...] = (1, 1)
) -> Float[Array, "B 2*H 2*W C"]:
    """Twice the size: the transpose of `downsample` times 4; (1, 1) repeats pixels."""
    batch, height, width, channels = x.shape
    if taps == (1, 1):
        x = jnp.broadcast_to(
            x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
        )
        return x.reshape(batch, 2 * height, 2 * width, channels)
    pad = len(taps) - 1 - (len(taps) - 1) // 2
    return depthwise(x, taps, gain=4.0, dilation=2, padding=pad)


def depthwise(
    x: Float[Array, "B H W C"],
    taps: tuple[int, ...],
    *,
    gain: float = 1.0,
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
) -> Float[Array, "B H2 W2 C"]:
    """Each channel convolved with gain * taps (x) taps / sum(taps)^2.

    Args:
        dilation: Dilation of the input: 2 puts zeros between the pixels before the
            filter.
    """
    channels = x.shape[-1]
    row = jnp.asarray(taps, jnp.float32) / sum(taps)
    kernel = (gain * jnp.outer(row, row))[:, :, None, None].astype(x.dtype)
    return lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel, (*kernel.shape[:3], channels)),
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
