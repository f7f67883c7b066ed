"""Accelerators, and what their makers say of them: peaks, memory, links.

    chips.CHIPS["v5e"].peak  # 1.97e14 FLOP/s
    chips.of_kind(jax.devices()[0].device_kind)

Sources: Google Cloud's pages of TPU versions, and "How to Scale Your Model" (Austin et
al. 2025), chapter 2, for the links; the memory is what libtpu leaves to a program. Of
GPUs NVIDIA's data sheets of the SXM modules; the memory is what the driver reports.
"""

import re
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


class Peak(NamedTuple):
    """What one device of JAX can do at best.

    Attributes:
        flops: FLOP/s of dense matrix products of `dtype`, summed in float32.
        memory: Bytes.
        dtype: Type of the operands.
    """

    flops: float
    memory: float
    dtype: str = "bfloat16"


def _of(name: str) -> Peak:
    return Peak(CHIPS[name].peak, CHIPS[name].memory)


# By the names that JAX gives devices; the first pattern that is found in one holds. Of
# a TPU v2 or v3 a device is one of the chip's two cores.
KINDS = (
    (r"TPU v2", Peak(0.225e14, 8e9)),
    (r"TPU v3", Peak(0.615e14, 16e9)),
    (r"TPU v4$", _of("v4")),
    (r"TPU v5 ?(lite|e)", _of("v5e")),
    (r"TPU v5", _of("v5p")),
    (r"TPU v6 ?(lite|e)", _of("v6e")),
    (r"GH200", Peak(9.89e14, 96e9)),
    (r"H200", _of("h200")),
    (r"H100 PCIe", Peak(7.56e14, 80e9)),
    (r"H100 NVL", Peak(8.35e14, 94e9)),
    (r"H100", _of("h100")),
    (r"H800", Peak(9.89e14, 80e9)),
    (r"B200", Peak(22.5e14, 180e9)),
    (r"A100.*80GB", Peak(3.12e14, 80e9)),
    (r"A100", Peak(3.12e14, 40e9)),
    (r"A800", Peak(3.12e14, 80e9)),
    (r"A40\b", Peak(1.497e14, 48e9)),
    (r"A30\b", Peak(1.65e14, 24e9)),
    (r"A10G", Peak(0.7e14, 24e9)),
    (r"A10\b", Peak(1.25e14, 24e9)),
    (r"RTX A6000", Peak(1.548e14, 48e9)),
    (r"L40S", Peak(3.62e14, 48e9)),
    (r"L40\b", Peak(1.81e14, 48e9)),
    (r"L4\b", Peak(1.21e14, 24e9)),
    (r"RTX 4090", Peak(1.652e14, 24e9)),
    (r"RTX 3090", Peak(0.71e14, 24e9)),
    (r"V100.*32GB", Peak(1.25e14, 32e9, "float16")),
    (r"V100", Peak(1.25e14, 16e9, "float16")),
    (r"\bT4\b", Peak(0.65e14, 16e9, "float16")),
)


def of_kind(kind: str) -> Peak | None:
    """The peak of a `device_kind` of JAX; None where it is not known, as of a part."""
    if "MIG" in kind:
        return None
    return next((peak for name, peak in KINDS if re.search(name, kind)), None)
