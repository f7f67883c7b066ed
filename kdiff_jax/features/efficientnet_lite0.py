"""The features of EfficientNet-Lite0 in timm's TensorFlow port, frozen."""

import os
from typing import Any

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import WeightsFile, frozen
from kdiff_jax.types import Params

PLAN = (  # of the stages after the first: blocks, size of the kernel, stride, channels
    (2, 3, 2, 24),
    (2, 5, 2, 40),
    (3, 3, 2, 80),
    (3, 5, 1, 112),
    (4, 5, 2, 192),
    (1, 3, 1, 320),
)
TAPS = (1, 2, 4, 6)  # the stages whose outputs are the features
EXPANSION = 6
BN_EPS = 1e-3  # TensorFlow's
MEAN = STD = (0.5, 0.5, 0.5)
FILE = WeightsFile(
    "timm's tf_efficientnet_lite0-0aa007d2.pth",
    "github.com/rwightman/pytorch-image-models, release v0.1-weights",
)
IGNORED = ("conv_head.", "bn2.", "classifier.")


class SeparableBlock(nn.Module):
    """The first block: a depthwise 3x3 convolution and a 1x1 to 16 channels."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W 16"]:
        x = nn.relu6(_norm("bn1")(_depthwise(x, 3, 1, self.dtype)))
        return _norm("bn2")(_pointwise(x, 16, "conv_pw", self.dtype))


class InvertedBlock(nn.Module):
    """1x1 to six times the channels, depthwise, 1x1 back; a shortcut where it fits."""

    size: int
    stride: int
    num_channels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C2"]:
        h = _pointwise(x, EXPANSION * x.shape[-1], "conv_pw", self.dtype)
        h = nn.relu6(_norm("bn1")(h))
        h = _depthwise(h, self.size, self.stride, self.dtype)
        h = nn.relu6(_norm("bn2")(h))
        h = _norm("bn3")(_pointwise(h, self.num_channels, "conv_pwl", self.dtype))
        return x + h if h.shape == x.shape else h


class EfficientNetLite0(nn.Module):
    """Stem and seven stages, 2,958,848 parameters without stored statistics.

    Attributes:
        dtype: Type of the products; norms are float32, and the sums between blocks too.

    Source: Tan & Le 2019, arXiv:1905.11946, Table 1; the Lite form has ReLU6 and no
    squeeze-and-excitation.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B _H _W _C"]]:
        """Four features of images in [-1, 1]."""
        fields: dict[str, Any] = dict(
            stride=2, padding="SAME", bias=False, dtype=self.dtype
        )
        stem = frozen.conv(32, 3, **fields, name="conv_stem")
        x = nn.relu6(_norm("bn1")(stem(x)))
        x = SeparableBlock(self.dtype, name="blocks.0.0")(x)
        outputs = []
        for stage, (num_blocks, size, stride, num_channels) in enumerate(PLAN, start=1):
            for i in range(num_blocks):
                block = InvertedBlock(
                    size,
                    stride if i == 0 else 1,
                    num_channels,
                    self.dtype,
                    name=f"blocks.{stage}.{i}",
                )
                x = block(x)
            if stage in TAPS:
                outputs.append(x)
        return outputs


LITE0 = EfficientNetLite0()


def features(
    params: Params, images: Float[Array, "B H W C"], dtype: str = "float32"
) -> list[Float[Array, "B _H _W _C"]]:
    """At 56, 28, 14 and 7 pixels: 24, 40, 112 and 320 channels.

    Args:
        params: Parameters from `load`.
        images: In [-1, 1], of any size; they are resized to 224.
        dtype: Type of the products; the images are prepared in float32.

    Source: Zheng & Yang 2024, arXiv:2405.20750, released code.
    """
    frozen.check_rgb(images, "EfficientNet-Lite0")
    x = frozen.resize(frozen.normalise(images, MEAN, STD), frozen.SIZE)
    return LITE0.clone(dtype=dtype).apply({"params": params}, x)  # type: ignore[return-value]


def load(path: str | os.PathLike) -> Params:
    """Parameters from timm's file; see `frozen.load`."""
    return frozen.load(
        LITE0, path, network="EfficientNet-Lite0", wanted=FILE.wanted, ignored=IGNORED
    )


def shapes() -> Params:
    """Shapes of what `load` returns, without the file."""
    return frozen.shapes(LITE0)


def _norm(name):
    return frozen.FixedBatchNorm(eps=BN_EPS, name=name)


def _pointwise(x, num_channels, name, dtype):
    return frozen.conv(num_channels, 1, bias=False, dtype=dtype, name=name)(x)


def _depthwise(x, size, stride, dtype):
    num_channels = x.shape[-1]
    conv = frozen.conv(
        num_channels,
        size,
        stride=stride,
        padding="SAME",
        groups=num_channels,
        bias=False,
        dtype=dtype,
        name="conv_dw",
    )
    return conv(x)
