"""DINOv2's ViT-L/14: FD-DINOv2, as dgm-eval and EDM2 compute it.

Source: Oquab et al. 2023, arXiv:2304.07193; Stein et al. 2023, arXiv:2306.04675.
"""

import functools

from kdiff_jax.features import WeightsFile, vit_features
from kdiff_jax.features.vit import VisionTransformer

FILE = WeightsFile(
    "dinov2_vitl14_pretrain.pth",
    "github.com/facebookresearch/dinov2",
    1_217_586_395,
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "Apache-2.0",
)
NETWORK = VisionTransformer(
    1024, 24, 16, 4096, grid=37, positions="torch_bicubic_offset", scales=True
)

load = functools.partial(vit_features.load, NETWORK, "DINOv2 ViT-L/14", FILE)
EXTRACTOR = vit_features.dinov2(NETWORK)
