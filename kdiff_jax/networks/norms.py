"""GroupNorm whose sums take one pass, and are exact far from 0."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Num

# False while a program is traced for something that knows no barrier, such as ONNX. JAX
# keeps what it has traced with another value apart.
barriers = jax.make_user_context(True)
POINTS = 4  # along each axis of places, of which c is the mean


class GroupNorm(nn.Module):
    """GroupNorm over places and channels of a group, in float32; as `nn.GroupNorm`.

    The mean and the variance are those of d = x - c: sums of d and d^2 take one pass,
    where Flax's exact variance takes one for the mean and then another. c is about the
    mean, that of a coarse grid of places. Without it the mean square, less the mean's
    square, is off by 1e-3 where the mean is 30 standard deviations, and nonsense at
    1000. What is left is (c - mean)^2 / variance roundings: of 256 x 256 places, of
    which one on the grid is all that deviates, 8e-6 of the largest value.

    Attributes:
        num_groups: Number of groups; it divides the channels.
        epsilon: What is added to the variance.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.networks import norms
        >>> norm, x = norms.GroupNorm(2), 1000 + jnp.arange(16.0).reshape(1, 2, 2, 4)
        >>> y = norm.apply(norm.init(jax.random.key(0), x), x)
        >>> [round(float(v), 3) for v in (y.mean(), y.std())]
        [0.0, 1.0]

    Source: Wu & He 2018, arXiv:1803.08494.
    """

    num_groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Num[Array, "B *places C"]) -> Float[Array, "B *places C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        c = self._of_groups(lax.stop_gradient(_coarse(x)))
        d = _kept(x - _beside(self._of_channels(c, channels), x))
        mean, square = self._of_groups(d), self._of_groups(jnp.square(d))
        variance = jnp.maximum(square - jnp.square(mean), 0)
        factor = lax.rsqrt(variance + self.epsilon)
        mean, factor = (self._of_channels(v, channels) for v in (mean, factor))
        along = [1] * (x.ndim - 1)
        scaled = (d - _beside(mean, x)) * _beside(factor * scale[None], x)
        return scaled + bias.reshape(*along, channels)

    def _of_groups(self, x):
        """f32[B, num_groups], the means of groups."""
        places = tuple(range(1, x.ndim - 1))
        sums = x.mean(places)
        return sums.reshape(len(x), self.num_groups, -1).mean(-1)

    def _of_channels(self, of_groups, channels):
        """f32[B, C], that of a channel's group."""
        return jnp.repeat(of_groups, channels // self.num_groups, axis=1)


def _coarse(x):
    """[B, ..., C], a few places all over."""
    steps = [max(1, num // POINTS) for num in x.shape[1:-1]]
    return x[:, *(slice(step // 2, None, step) for step in steps)]


def _beside(of_channels, x):
    """[B, 1, ..., C], of [B, C]."""
    between = [1] * (x.ndim - 2)
    return of_channels.reshape(len(x), *between, x.shape[-1])


def _kept(d):
    """The same, which XLA then computes once where the program is for CPUs.

    It would take the difference into each sum: CPUs then add one by one, where sums of
    what lies in memory are a library's. An accelerator needs no such pass.
    """
    if not barriers.value:
        return d
    same = dict(cpu=lax.optimization_barrier, default=lambda d: d)
    return lax.platform_dependent(d, **same)
