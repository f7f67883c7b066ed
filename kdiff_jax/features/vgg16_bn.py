"""VGG16 with batch normalisation as a discriminator's feature network, frozen."""

import os

from jax import Array
from jaxtyping import Float

from kdiff_jax.features import WeightsFile, frozen, vgg
from kdiff_jax.features.vgg import VGG16
from kdiff_jax.types import Params

FILE = WeightsFile("torchvision's vgg16_bn-6c64b313.pth", "download.pytorch.org/models")
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
    return frozen.load(
        BN, path, network="VGG16-BN", wanted=FILE.wanted, ignored=vgg.IGNORED
    )


def shapes() -> Params:
    """Shapes of what `load` returns, without the file."""
    return frozen.shapes(BN)
