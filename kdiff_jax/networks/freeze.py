"""Which parameters of a U-Net stay as they are when its convolutions are frozen.

Zheng & Yang 2024, arXiv:2405.20750, "GDD-I": a diffusion model already holds a one-step
generator, which its norms, embeddings and shortcuts bring out.
"""

import re

from kdiff_jax import networks


def trains_with_frozen_convolutions(path: str) -> bool:
    """Whether the leaf at `path` ("enc_16x16_block0/conv0/kernel") still trains.

    Frozen are the 3x3 convolutions and the last layer of the attention, with their
    biases, of every block: encoder, bottleneck and decoder. All else trains: norms,
    embeddings and what blocks take from them, 1x1 shortcuts, queries, keys and values,
    the first and the last convolution.

    Source: arXiv:2405.20750 and its released code, `freeze=1`.
    """
    return not any(re.fullmatch(p, path) for p in networks.facts("CONVOLUTIONS"))
