"""The image tower of OpenAI's CLIP ViT-L/14.

Source: Radford et al. 2021, arXiv:2103.00020.
"""

import functools

from kdiff_jax.features import WeightsFile, vit_features
from kdiff_jax.features.vit import VisionTransformer

SHA256 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
FILE = WeightsFile(
    "ViT-L-14.pt",
    "github.com/openai/CLIP",
    932_768_134,
    SHA256,
    f"https://openaipublic.azureedge.net/clip/models/{SHA256}/ViT-L-14.pt",
    "MIT",
)
NETWORK = VisionTransformer(
    1024, 24, 16, 4096, grid=16, gelu="quick", eps=1e-5, out=768
)

load = functools.partial(vit_features.load, NETWORK, "CLIP ViT-L/14", FILE)
EXTRACTOR = vit_features.clip(NETWORK)
