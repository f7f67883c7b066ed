"""ResNet for CIFAR images, frozen: `fd_resnet56`, and a discriminator's features.

No training mode: batch normalisation uses its stored statistics, kept as parameters.
"""

import os
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from kdiff_jax.features import Extractor, WeightsFile, frozen
from kdiff_jax.features.frozen import PRECISION
from kdiff_jax.types import Params

SIZE = 32  # of the images that it is trained on
FILE = WeightsFile(
    "resnet56-4bfd9763.th",
    "github.com/akamaster/pytorch_resnet_cifar10",
    url="https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/"
    "pretrained_models/resnet56-4bfd9763.th",
    terms="BSD-2-Clause",
)
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A).

    Where the size changes, the shortcut takes every second pixel and pads the channels
    with zeros, half before and half after.
    """

    num_channels: int
    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        h = _conv(self.num_channels, self.stride, "conv1", self.dtype)(x)
        h = nn.relu(frozen.FixedBatchNorm(name="bn1")(h))
        h = _conv(self.num_channels, 1, "conv2", self.dtype)(h)
        h = frozen.FixedBatchNorm(name="bn2")(h)
        missing = self.num_channels - x.shape[-1]
        edges = (missing // 2, missing - missing // 2)
        shortcut = x[:, :: self.stride, :: self.stride]
        return nn.relu(h + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), edges)))


class ResNet(nn.Module):
    """Three stages of 16, 32, 64 channels with `num_blocks` blocks each.

    9 blocks a stage are ResNet-56: 6 * 9 + 2 layers, 853,018 parameters with the stored
    statistics not counted.

    Attributes:
        dtype: Type of the products; norms are float32, and the sums between blocks too.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2.
    """

    num_blocks: int = 9
    num_classes: int = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"]
    ) -> tuple[
        Float[Array, "B 64"], Float[Array, "B K"], list[Float[Array, "B _H _W _C"]]
    ]:
        """Pooled features, the logits of the linear layer, the outputs of the stages.

        Args:
            x: Images as the weights expect them (usually (x / 255 - mean) / std).
        """
        x = _conv(16, 1, "conv1", self.dtype)(x)
        x = nn.relu(frozen.FixedBatchNorm(name="bn1")(x))
        maps = []
        for stage, num_channels in enumerate((16, 32, 64), start=1):
            for i in range(self.num_blocks):
                stride = 2 if i == 0 and stage > 1 else 1
                name = f"layer{stage}.{i}"
                x = BasicBlock(num_channels, stride, self.dtype, name=name)(x)
            maps.append(x)
        features = x.mean(axis=(1, 2))
        fields: dict[str, Any] = dict(
            precision=PRECISION, dtype=self.dtype, name="linear"
        )
        logits = nn.Dense(self.num_classes, **fields)(features)
        return features, logits.astype(jnp.float32), maps


def features(
    params: Params, images: Float[Array, "B H W C"], dtype: str = "float32"
) -> list[Float[Array, "B _H _W _C"]]:
    """ResNet-56's at 32, 16 and 8 pixels: 16, 32 and 64 channels.

    Args:
        params: Parameters from `load`.
        images: In [-1, 1], of any size; they are resized to 32.
        dtype: Type of the products; the images are prepared in float32.
    """
    frozen.check_rgb(images, "ResNet-56")
    x = frozen.normalise(images, frozen.IMAGENET_MEAN, frozen.IMAGENET_STD)
    network = ResNet(dtype=dtype)
    outputs: Any = network.apply({"params": params}, frozen.resize(x, SIZE))
    return outputs[2]


def load(path: str | os.PathLike) -> Params:
    """Parameters of a ResNet-56 from PyTorch's names; see `frozen.load`."""
    return frozen.load(
        ResNet(), path, network="a CIFAR-10 ResNet-56", wanted=FILE.wanted
    )


def shapes() -> Params:
    """Shapes of what `load` returns, without the file."""
    return frozen.shapes(ResNet())


def extract(
    params: Params, images: UInt8[Array, "B H W 3"], preprocessing: str
) -> dict[str, Float[Array, "B _D"]]:
    """Pooled activations and logits of images of any size, which is kept."""
    del preprocessing
    mean, std = jnp.array(frozen.IMAGENET_MEAN), jnp.array(frozen.IMAGENET_STD)
    x = (images / 255 - mean[None, None, None]) / std[None, None, None]
    outputs: Any = ResNet().apply({"params": params}, x)
    pooled, logits, _ = outputs
    return {"pooled": pooled, "logits": logits}


EXTRACTOR = Extractor(
    {"pooled": 64, "logits": 10},
    main="pooled",
    extract=extract,
    logits="logits",
    classes=CLASSES,
)


def _conv(num_channels, stride, name, dtype):
    return nn.Conv(
        num_channels,
        (3, 3),
        strides=stride,
        # PyTorch's padding, which "SAME" would not give at stride 2.
        padding=((1, 1), (1, 1)),
        use_bias=False,
        precision=PRECISION,
        dtype=dtype,
        name=name,
    )
