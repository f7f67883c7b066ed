"""The convolutions of VGG16, without and with batch normalisation, frozen.

`features` and `load` are those of VGG16-BN as a discriminator's feature network; LPIPS
reads the plain one.
"""

import os

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import frozen
from kdiff_jax.features.resnet import FixedBatchNorm
from kdiff_jax.types import Params

PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
WANTED = "torchvision's vgg16-397923af.pth (download.pytorch.org/models)"
WANTED_BN = "torchvision's vgg16_bn-6c64b313.pth (download.pytorch.org/models)"
IGNORED = ("classifier.",)


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions; 0 in `PLAN` is a pooling that halves the image.

    14,714,688 parameters, and 8,448 more with batch normalisation (stored statistics
    not counted).

    Attributes:
        taps: The layers whose outputs are returned, as numbered in torchvision's
            `features` (which counts batch norms and ReLUs); each is a ReLU.
        batch_norm: VGG16-BN.
        dtype: Type of the products; norms are float32.

    Source: Simonyan & Zisserman 2015, arXiv:1409.1556, Table 1, D.
    """

    taps: tuple[int, ...]
    batch_norm: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B _H _W _C"]]:
        """Features of images normalised by ImageNet's mean and std."""
        outputs, layer = [], 0
        for num_channels in PLAN:
            if num_channels == 0:
                x = nn.max_pool(x, (2, 2), (2, 2))
                layer += 1
                continue
            name = f"features.{layer}"
            x = frozen.conv(num_channels, 3, padding=1, dtype=self.dtype, name=name)(x)
            if self.batch_norm:
                layer += 1
                x = FixedBatchNorm(name=f"features.{layer}")(x)
            x = nn.relu(x)
            layer += 1
            if layer in self.taps:
                outputs.append(x)
            layer += 1
        return outputs


BN = VGG16(taps=(12, 22, 32, 42), batch_norm=True)


def features(
    params: Params, images: Float[Array, "B H W C"], dtype: str = "float32"
) -> list[Float[Array, "B _H _W _C"]]:
    """VGG16-BN's at 112, 56, 28 and 14 pixels: 128, 256, 512 and 512 channels.

    Args:
        params: Parameters from `load`.
        images: In [-1, 1], of any size; they are resized to 224.
        dtype: Type of the products; the images are prepared in float32.

    Source: Zheng & Yang 2024, arXiv:2405.20750, released code: the outputs before
        layers 13, 23, 33 and 43.
    """
    frozen.check_rgb(images, "VGG16-BN")
    x = frozen.normalise(images, frozen.IMAGENET_MEAN, frozen.IMAGENET_STD)
    network = BN.clone(dtype=dtype)
    return network.apply({"params": params}, frozen.resize(x, frozen.SIZE))  # type: ignore[return-value]


def load(path: str | os.PathLike) -> Params:
    """VGG16-BN's parameters from torchvision's file; see `frozen.load`."""
    return frozen.load(BN, path, network="VGG16-BN", wanted=WANTED_BN, ignored=IGNORED)
