"""The features of SqueezeNet 1.1, frozen."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import Backbone, frozen

PLAN = {  # layer in torchvision's `features`: channels squeezed, channels expanded
    3: (16, 64),
    4: (16, 64),
    6: (32, 128),
    7: (32, 128),
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}
POOLED = (3, 6, 9)  # the layers before which the image is halved
TAPS = (4, 7, 9, 10, 11, 12)
WANTED = "torchvision's squeezenet1_1-b8a52dc0.pth (download.pytorch.org/models)"
IGNORED = ("classifier.",)


class Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side; the 1x1 half comes first."""

    squeezed: int
    expanded: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C2"]:
        dtype = self.dtype
        x = nn.relu(frozen.conv(self.squeezed, 1, dtype=dtype, name="squeeze")(x))
        small = frozen.conv(self.expanded, 1, dtype=dtype, name="expand1x1")(x)
        large = frozen.conv(self.expanded, 3, padding=1, dtype=dtype, name="expand3x3")(
            x
        )
        return nn.relu(jnp.concatenate([small, large], axis=-1))


class SqueezeNet(nn.Module):
    """A convolution and eight Fire modules, 722,496 parameters.

    Attributes:
        dtype: Type of the activations and products.

    Source: Iandola et al. 2016, arXiv:1602.07360; version 1.1 as in torchvision.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B _H _W _C"]]:
        """Seven outputs, of images normalised by ImageNet's mean and std."""
        first = frozen.conv(64, 3, stride=2, dtype=self.dtype, name="features.0")
        x = nn.relu(first(x))
        outputs = [x]
        for layer, (squeezed, expanded) in PLAN.items():
            if layer in POOLED:
                x = _pool(x)
            x = Fire(squeezed, expanded, self.dtype, name=f"features.{layer}")(x)
            if layer in TAPS:
                outputs.append(x)
        return outputs


BACKBONE = Backbone(
    SqueezeNet(), (64, 128, 256, 384, 384, 512, 512), "SqueezeNet 1.1", WANTED, IGNORED
)


def _pool(x):
    """3x3, stride 2; a last window that the image fills in part counts (ceil mode)."""
    edges: Any = [(0, (size - 3) % 2) for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), padding=edges)
