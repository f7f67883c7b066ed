"""The convolutions of VGG16, without and with batch normalisation, frozen.

LPIPS reads the plain one, a discriminator the other (`vgg16_bn`).
"""

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import Backbone, frozen

PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
WANTED = "torchvision's vgg16-397923af.pth (download.pytorch.org/models)"
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
                x = frozen.FixedBatchNorm(name=f"features.{layer}")(x)
            x = nn.relu(x)
            layer += 1
            if layer in self.taps:
                outputs.append(x)
            layer += 1
        return outputs


BACKBONE = Backbone(
    VGG16(taps=(3, 8, 15, 22, 29)), (64, 128, 256, 512, 512), "VGG16", WANTED, IGNORED
)
