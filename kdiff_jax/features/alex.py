"""The convolutions of AlexNet in torchvision's one-tower form, frozen."""

from typing import Any

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import Backbone, frozen

PLAN = {  # layer in torchvision's `features`: channels, size, stride, padding
    0: (64, 11, 4, 2),
    3: (192, 5, 1, 2),
    6: (384, 3, 1, 1),
    8: (256, 3, 1, 1),
    10: (256, 3, 1, 1),
}
POOLED = (3, 6)  # the layers before which the image is halved
WANTED = "torchvision's alexnet-owt-7be5be79.pth (download.pytorch.org/models)"
IGNORED = ("classifier.",)


class AlexNet(nn.Module):
    """Five convolutions, 2,469,696 parameters.

    Attributes:
        dtype: Type of the activations and products.

    Source: Krizhevsky 2014, arXiv:1404.5997, as in torchvision.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B _H _W _C"]]:
        """The five ReLUs, of images normalised by ImageNet's mean and std."""
        outputs = []
        for layer, (num_channels, size, stride, padding) in PLAN.items():
            if layer in POOLED:
                x = nn.max_pool(x, (3, 3), (2, 2))
            name = f"features.{layer}"
            fields: dict[str, Any] = dict(
                stride=stride, padding=padding, dtype=self.dtype
            )
            conv = frozen.conv(num_channels, size, **fields, name=name)
            x = nn.relu(conv(x))
            outputs.append(x)
        return outputs


BACKBONE = Backbone(AlexNet(), (64, 192, 384, 256, 256), "AlexNet", WANTED, IGNORED)
