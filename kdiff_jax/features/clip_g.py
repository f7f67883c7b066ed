"""The image tower of OpenCLIP's ViT-g/14.

Source: Cherti et al. 2023, arXiv:2212.07143; github.com/mlfoundations/open_clip.
"""

import functools

from kdiff_jax.features import WeightsFile, vit_features
from kdiff_jax.features.vit import VisionTransformer

FILE = WeightsFile(
    "open_clip_pytorch_model.bin",
    "huggingface.co/laion/CLIP-ViT-g-14-laion2B-s12B-b42K",
    url="https://huggingface.co/laion/CLIP-ViT-g-14-laion2B-s12B-b42K/resolve/main/"
    "open_clip_pytorch_model.bin",
    terms="MIT",
)
NETWORK = VisionTransformer(1408, 40, 16, 6144, grid=16, eps=1e-5, out=1024)

load = functools.partial(vit_features.load, NETWORK, "OpenCLIP ViT-g/14", FILE)
EXTRACTOR = vit_features.clip(NETWORK)
