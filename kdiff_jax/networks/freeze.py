"""Which parameters of a U-Net stay as they are when its convolutions are frozen.

Zheng & Yang 2024, arXiv:2405.20750, "GDD-I": a diffusion model already holds a one-step
generator, which its norms, embeddings and shortcuts bring out.
"""

import re

# A module inside a residual or attention block, then the layer. EDM's names, those of
# iddpm_unet (down_0.block_1), and of ddpm_unet (down_blocks_0_resnets_1).
BLOCK = re.compile(r"(^|_)(block\d+|up|down|in\d+)$|^(down|mid|up)_?")
LAYER = re.compile(r"conv[012]|proj|proj_out|to_out_0")
# The convolution is no layer of a block here, but resamples by itself.
RESAMPLER = re.compile(r"(down|up)samplers_\d+_conv$")


def trains_with_frozen_convolutions(path: str) -> bool:
    """Whether the leaf at `path` ("enc_16x16_block0/conv0/kernel") still trains.

    Frozen are the 3x3 convolutions and the last layer of the attention, with their
    biases, of every block: encoder, bottleneck and decoder. All else trains: norms,
    embeddings and what blocks take from them, 1x1 shortcuts, queries, keys and values,
    the first and the last convolution.

    Source: arXiv:2405.20750 and its released code, `freeze=1`.
    """
    module, *inner = path.split("/")
    if RESAMPLER.search(module):
        return False
    return not (BLOCK.search(module) and inner and LAYER.fullmatch(inner[0]))
