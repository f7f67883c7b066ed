"""DINOv2's ViT-B/14: features of a third of the size of `dinov2`'s network.

Source: Oquab et al. 2023, arXiv:2304.07193.
"""

import functools

from kdiff_jax.features import WeightsFile, vit_features
from kdiff_jax.features.vit import VisionTransformer

FILE = WeightsFile(
    "dinov2_vitb14_pretrain.pth",
    "github.com/facebookresearch/dinov2",
    346_378_731,
    "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    "Apache-2.0",
)
NETWORK = VisionTransformer(
    768, 12, 12, 3072, grid=37, positions="torch_bicubic_offset", scales=True
)

load = functools.partial(vit_features.load, NETWORK, "DINOv2 ViT-B/14", FILE)
EXTRACTOR = vit_features.dinov2(NETWORK)
