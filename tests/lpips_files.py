"""Files of LPIPS with random weights, in the layouts of those that are published."""

import functools

import named_weights
import numpy as np

from kdiff_jax.features import lpips

VGG = {  # layer in torchvision's `features`: slice in lpips, channels in and out
    0: (1, 3, 64),
    2: (1, 64, 64),
    5: (2, 64, 128),
    7: (2, 128, 128),
    10: (3, 128, 256),
    12: (3, 256, 256),
    14: (3, 256, 256),
    17: (4, 256, 512),
    19: (4, 512, 512),
    21: (4, 512, 512),
    24: (5, 512, 512),
    26: (5, 512, 512),
    28: (5, 512, 512),
}


@functools.cache
def vgg_arrays():
    arrays = {}
    for layer, (part, num_in, num_out) in VGG.items():
        for leaf, shape in (("weight", (num_out, num_in, 3, 3)), ("bias", (num_out,))):
            name = f"net.slice{part}.{layer}.{leaf}"
            arrays[f"features.{layer}.{leaf}"] = named_weights.tensor(name, shape)
    return arrays


def head_arrays(net):
    names = [f"lin{i}.model.1.weight" for i in range(7)]
    channels = lpips.backbone(net).channels
    return {
        name: named_weights.lpips_head(name, (1, c, 1, 1))
        for name, c in zip(names, channels, strict=False)
    }


def write(folder):
    """(weights, heads): paths of VGG's file and of the heads'."""
    weights, heads = folder / "vgg16.npz", folder / "heads.npz"
    # What torchvision's file has beside the features, and the published heads of all.
    np.savez(weights, **vgg_arrays(), **{"classifier.0.weight": np.zeros((2, 2))})
    prefixed = {f"vgg/{name}": array for name, array in head_arrays("vgg").items()}
    np.savez(heads, **prefixed, **{"alex/lin0.model.1.weight": np.zeros(3)})
    return weights, heads
