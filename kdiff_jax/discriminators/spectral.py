"""Convolutions whose kernel is divided by an estimate of its largest singular value.

The estimate is a state that moves without a gradient: the collection "spectral", one
vector per kernel. It depends on the kernel alone, never on the images, so that it is
the same on all devices.
"""

import math
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

STATE = "spectral"


def torch_uniform(fan_in: int):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default, of kernels and biases."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class SpectralConv(nn.Module):
    """Convolution with kernel / sigma, sigma = v^T W u after one power iteration.

    With W the kernel as a matrix [size * size * in, out], at every call:

    v = W u / |W u|, u = W^T v / |W^T v|

    and no gradient flows into u and v. Call with mutable=["spectral"] to get the new u.
    All of this is float32; the images are convolved in `dtype`.

    Source: Miyato et al. 2018, arXiv:1802.05957, Algorithm 1.
    """

    width: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        fan_in = self.size**2 * x.shape[-1]
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", torch_uniform(fan_in), shape)
        # The key of the first u is this layer's place: it needs no params' key.
        old = self.variable(STATE, "u", _start, self.path, self.width)
        matrix = kernel.reshape(-1, self.width)
        still = lax.stop_gradient(matrix)
        v = _unit(still @ old.value)
        u = _unit(still.T @ v)
        if self.is_mutable_collection(STATE) and not self.is_initializing():
            old.value = u
        pad = (self.padding, self.padding)
        x = lax.conv_general_dilated(
            x.astype(self.dtype),
            (kernel / (v @ matrix @ u)).astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=(pad, pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            bias = self.param("bias", torch_uniform(fan_in), (self.width,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


def _start(path, width):
    key = jax.random.key(0)
    for part in path:
        key = jax.random.fold_in(key, zlib.crc32(part.encode()))
    return _unit(jax.random.normal(key, (width,)))


def _unit(x):
    return x / jnp.maximum(jnp.sqrt(jnp.sum(x**2)), 1e-12)
