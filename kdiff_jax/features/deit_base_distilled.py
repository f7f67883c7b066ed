"""The features of DeiT-B distilled, 16-pixel patches of 224-pixel images, frozen."""

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import WeightsFile, frozen
from kdiff_jax.features.frozen import PRECISION
from kdiff_jax.types import Params

WIDTH, NUM_BLOCKS, NUM_HEADS, PATCH = 768, 12, 12, 16
SIDE = frozen.SIZE // PATCH
TAPS = (2, 5, 8, 11)  # the blocks whose outputs are the features
# Channels that a projection gives them, as it brings them to four sizes.
PYRAMID = (96, 192, 384, 768)
NORM_EPS = 1e-6
FILE = WeightsFile(
    "timm's deit_base_distilled_patch16_224-df68dfff.pth", "dl.fbaipublicfiles.com/deit"
)
IGNORED = ("norm.", "head.", "head_dist.")


class Attention(nn.Module):
    """Self-attention of all tokens; q, k and v come from one matrix, in this order."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        batch, num_tokens, width = x.shape
        qkv = _dense(3 * width, "qkv", self.dtype)(x)
        shape = (batch, num_tokens, 3, NUM_HEADS, width // NUM_HEADS)
        q, k, v = jnp.moveaxis(qkv.reshape(shape), 2, 0)
        with jax.default_matmul_precision("highest"):  # see `frozen.PRECISION`
            out = jax.nn.dot_product_attention(q, k, v)
        out = out.reshape(batch, num_tokens, width)
        return _dense(width, "proj", self.dtype)(out)


class Mlp(nn.Module):
    """Four times wider in between; GELU with the error function, not tanh."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        h = _dense(4 * x.shape[-1], "fc1", self.dtype)(x)
        return _dense(x.shape[-1], "fc2", self.dtype)(nn.gelu(h, approximate=False))


class Block(nn.Module):
    """Attention and an MLP, each normalised before and added after."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        x = x + Attention(self.dtype, name="attn")(_norm("norm1")(x))
        return x + Mlp(self.dtype, name="mlp")(_norm("norm2")(x))


class DistilledDeiT(nn.Module):
    """A vision transformer with a class and a distillation token.

    85,798,656 parameters. The last norm and the two classifiers are not in it: the
    features do not need them.

    Attributes:
        dtype: Type of the activations and products; norms and softmax are float32.

    Source: Touvron et al. 2021, arXiv:2012.12877, Section 4, DeiT-B distilled.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B 224 224 3"]
    ) -> list[Float[Array, "B 14 14 768"]]:
        """The patches' tokens after four blocks, of normalised images."""
        zeros = nn.initializers.zeros
        tokens = [
            self.param(name, zeros, (1, 1, WIDTH))
            for name in ("cls_token", "dist_token")
        ]
        position = self.param("pos_embed", zeros, (1, 2 + SIDE**2, WIDTH))
        fields: dict[str, Any] = dict(
            stride=PATCH, dtype=self.dtype, name="patch_embed.proj"
        )
        x = frozen.conv(WIDTH, PATCH, **fields)(x)
        batch = x.shape[0]
        tokens = [jnp.broadcast_to(token, (batch, 1, WIDTH)) for token in tokens]
        x = jnp.concatenate([*tokens, x.reshape(batch, SIDE**2, WIDTH)], axis=1)
        x = (x + position).astype(self.dtype)
        outputs = []
        for i in range(NUM_BLOCKS):
            x = Block(self.dtype, name=f"blocks.{i}")(x)
            if i in TAPS:
                outputs.append(x[:, 2:].reshape(batch, SIDE, SIDE, WIDTH))
        return outputs


BASE = DistilledDeiT()


def features(
    params: Params, images: Float[Array, "B H W C"], dtype: str = "float32"
) -> list[Float[Array, "B 14 14 768"]]:
    """Four maps of 14 pixels and 768 channels, after the blocks 2, 5, 8 and 11.

    The random convolutions that give them four sizes are `projected.Pyramid`.

    Args:
        params: Parameters from `load`.
        images: In [-1, 1], of any size; they are resized to 224.
        dtype: Type of the products; the images are prepared in float32.

    Source: Zheng & Yang 2024, arXiv:2405.20750, released code.
    """
    frozen.check_rgb(images, "DeiT")
    x = frozen.normalise(images, frozen.IMAGENET_MEAN, frozen.IMAGENET_STD)
    network = BASE.clone(dtype=dtype)
    return network.apply({"params": params}, frozen.resize(x, frozen.SIZE))  # type: ignore[return-value]


def load(path: str | os.PathLike) -> Params:
    """Parameters from timm's file; see `frozen.load`."""
    return frozen.load(
        BASE, path, network="DeiT-B distilled", wanted=FILE.wanted, ignored=IGNORED
    )


def shapes() -> Params:
    """Shapes of what `load` returns, without the file."""
    return frozen.shapes(BASE)


def _dense(num_features, name, dtype):
    return nn.Dense(num_features, precision=PRECISION, dtype=dtype, name=name)


def _norm(name):
    fields: dict[str, Any] = dict(dtype=jnp.float32, use_fast_variance=False)
    return nn.LayerNorm(epsilon=NORM_EPS, **fields, name=name)
