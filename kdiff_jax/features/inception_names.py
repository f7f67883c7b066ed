"""FID's Inception-v3 in NVIDIA's files, whose names are those of TensorFlow's graph."""

import numpy as np

from kdiff_jax.formats import lazy
from kdiff_jax.formats.lazy import Lazy

STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
BLOCKS = "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()  # mixed, mixed_1, ..., mixed_10
A = {
    "conv": "branch1x1",
    "tower.conv": "branch5x5_1",
    "tower.conv_1": "branch5x5_2",
    "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2",
    "tower_1.conv_2": "branch3x3dbl_3",
    "tower_2.conv": "branch_pool",
}
B = {
    "conv": "branch3x3",
    "tower.conv": "branch3x3dbl_1",
    "tower.conv_1": "branch3x3dbl_2",
    "tower.conv_2": "branch3x3dbl_3",
}
C = {
    "conv": "branch1x1",
    "tower.conv": "branch7x7_1",
    "tower.conv_1": "branch7x7_2",
    "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1",
    "tower_1.conv_1": "branch7x7dbl_2",
    "tower_1.conv_2": "branch7x7dbl_3",
    "tower_1.conv_3": "branch7x7dbl_4",
    "tower_1.conv_4": "branch7x7dbl_5",
    "tower_2.conv": "branch_pool",
}
D = {
    "tower.conv": "branch3x3_1",
    "tower.conv_1": "branch3x3_2",
    "tower_1.conv": "branch7x7x3_1",
    "tower_1.conv_1": "branch7x7x3_2",
    "tower_1.conv_2": "branch7x7x3_3",
    "tower_1.conv_3": "branch7x7x3_4",
}
E = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
KINDS = (A, A, A, B, C, C, C, C, D, E, E)
LEAVES = {
    "weight": "conv.weight",
    "beta": "bn.bias",
    "mean": "bn.running_mean",
    "var": "bn.running_var",
}
OUTPUT = {"output.weight": "fc.weight", "output.bias": "fc.bias"}


def renamed(found: dict[str, Lazy]) -> dict[str, Lazy]:
    """Arrays of any file under the names of pytorch-fid's.

    Those of other files than NVIDIA's stay as they are, and so do names that NVIDIA's
    files do not have: the caller says that they are unknown.
    """
    if not any(name.startswith("layers.") for name in found):
        return found
    modules = _modules()
    named = {}
    for name, array in found.items():
        module, _, leaf = name.removeprefix("layers.").rpartition(".")
        if module in modules and leaf in LEAVES:
            named[f"{modules[module]}.{LEAVES[leaf]}"] = array
        else:
            named[OUTPUT.get(name, name)] = array
    # The norms of this network have no scale, and NVIDIA's files store none.
    for module in modules.values():
        shape = named[f"{module}.bn.bias"].shape if f"{module}.bn.bias" in named else ()
        named[f"{module}.bn.weight"] = lazy.of(np.ones(shape, np.float32))
    return named


def _modules() -> dict[str, str]:
    """NVIDIA's name -> PyTorch's, of every convolution with its norm."""
    modules = dict(STEM)
    for i, (block, kind) in enumerate(zip(BLOCKS, KINDS, strict=True)):
        start = f"mixed_{i}" if i else "mixed"
        modules |= {f"{start}.{k}": f"Mixed_{block}.{v}" for k, v in kind.items()}
    return modules
