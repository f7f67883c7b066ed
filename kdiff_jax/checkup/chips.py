"""What chips can do at best, by JAX's names for them: from the makers' data sheets."""

import re
from typing import NamedTuple


class Chip(NamedTuple):
    """One device of JAX.

    Attributes:
        tflops: Peak of dense matrix products, 1e12 floating-point operations a second.
        gigabytes: Memory, 1e9 bytes; 0 where the name does not say.
        dtype: Type of the operands; sums are float32.
    """

    tflops: int | float
    gigabytes: int = 0
    dtype: str = "bfloat16"


# The first pattern that a device's kind matches holds. Of a TPU v2 or v3 a device is
# one of the chip's two cores. What is not here has no known peak.
CHIPS = (
    (r"TPU v2", Chip(22.5, 8)),
    (r"TPU v3", Chip(61.5, 16)),
    (r"TPU v4$", Chip(275, 32)),
    (r"TPU v5 ?(lite|e)", Chip(197, 16)),
    (r"TPU v5", Chip(459, 95)),
    (r"TPU v6 ?(lite|e)", Chip(918, 32)),
    (r"H200|GH200", Chip(989, 141)),
    (r"H100 PCIe", Chip(756, 80)),
    (r"H100 NVL", Chip(835, 94)),
    (r"H100", Chip(989, 80)),
    (r"H800", Chip(989, 80)),
    (r"B200", Chip(2250, 180)),
    (r"A100.*80GB", Chip(312, 80)),
    (r"A100", Chip(312, 40)),
    (r"A800", Chip(312, 80)),
    (r"A40\b", Chip(149.7, 48)),
    (r"A30\b", Chip(165, 24)),
    (r"A10G", Chip(70, 24)),
    (r"A10\b", Chip(125, 24)),
    (r"RTX A6000", Chip(154.8, 48)),
    (r"L40S", Chip(362, 48)),
    (r"L40\b", Chip(181, 48)),
    (r"L4\b", Chip(121, 24)),
    (r"RTX 4090", Chip(165.2, 24)),
    (r"RTX 3090", Chip(71, 24)),
    (r"V100.*32GB", Chip(125, 32, "float16")),
    (r"V100", Chip(125, 16, "float16")),
    (r"\bT4\b", Chip(65, 16, "float16")),
)


def find(kind: str) -> Chip | None:
    """The chip of a `device_kind`; None if it is not in the table."""
    return next((chip for name, chip in CHIPS if re.search(name, kind)), None)
