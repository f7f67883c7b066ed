"""Accelerators, and what their makers say of them: peaks, memory, links.

    chips.CHIPS["v5e"].peak  # 1.97e14 FLOP/s

Sources: Google Cloud's pages of TPU versions, and "How to Scale Your Model" (Austin et
al. 2025), chapter 2, for the links; the memory is what libtpu leaves to a program. Of
GPUs NVIDIA's data sheets of the SXM modules; the memory is what the driver reports.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
        name: Name that a topology begins with.
        peak: FLOP/s of dense matrix products in bfloat16.
        peak_float32: The same of float32 arrays at JAX's default precision: one pass of
            bfloat16 on TPUs, TF32 on GPUs.
        memory: Bytes that programs may have, a part of the memory that it is sold with.
        bandwidth: Bytes/s between chip and memory.
        link: Bytes/s that a chip sends to its neighbours, over all of its links.
    """

    name: str
    peak: float
    peak_float32: float
    memory: float
    bandwidth: float
    link: float


GIB = 2**30
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 2.75e14, 2.75e14, 31.25 * GIB, 1.23e12, 2.7e11),
        Chip("v5e", 1.97e14, 1.97e14, 15.75 * GIB, 8.2e11, 1.8e11),
        Chip("v5p", 4.59e14, 4.59e14, 94.75 * GIB, 2.8e12, 5.4e11),
        Chip("v6e", 9.18e14, 9.18e14, 31.25 * GIB, 1.64e12, 3.6e11),
        Chip("h100", 9.89e14, 4.94e14, 84_942_979_072.0, 3.35e12, 4.5e11),
        Chip("h200", 9.89e14, 4.94e14, 151_397_597_184.0, 4.8e12, 4.5e11),
    )
}
