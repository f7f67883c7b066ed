"""Parameters by NumPy: a program that draws a U-Net's takes seconds to compile."""

import math

import jax
import numpy as np


def params(net, seed: int = 0):
    """A tree like that of `net.init`: kernels N(0, 1 / fan_in), the others 0.1 N.

    Scales are 1 + 0.1 N. No leaf is zero, as some are when a network is initialized.
    """
    generator = np.random.default_rng(seed)

    def leaf_of(path, leaf):
        noise = generator.standard_normal(leaf.shape).astype(leaf.dtype)
        kind = path[-1].key
        if kind == "kernel":
            return noise / np.float32(math.sqrt(leaf.size / leaf.shape[-1]))
        return np.float32(kind == "scale") + np.float32(0.1) * noise

    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(leaf_of, shapes)
