"""Images as losses see them, where a frozen decoder stands between x0 and pixels.

Gradients flow through the decoder. Its activations are the largest of a step, so none
are kept: they are computed again for the gradient, and for some images at once if asked
for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import domain
from kdiff_jax.domain import Frozen
from kdiff_jax.method import Net


def stands(net: Net) -> bool:
    """Whether something has to be decoded: images of pixels are x0 themselves."""
    return net.space.to_images is not domain.as_they_are


def images(net: Net, frozen: Frozen, x0, *, batch_size: int = 0) -> Any:
    """What x0 decodes to: f32[B, H, W, C] in [-1, 1], but for overshoots.

    Args:
        net: A denoiser, for its space.
        frozen: Arrays by role, the decoder's among them.
        x0: f32[B, h, w, D].
        batch_size: Number of images decoded at once; 0 for all.
    """
    if not stands(net):
        return x0
    return _in_parts(lambda x0: net.space.to_images(frozen, x0), batch_size)(x0)


def distance(
    net: Net,
    frozen: Frozen,
    function: Callable[[Any, Any], Any],
    x0_hat,
    x0,
    *,
    batch_size: int = 0,
) -> Any:
    """f32[B], how far apart the images are that x0_hat and x0 decode to.

    Args:
        net: A denoiser, for its space.
        frozen: Arrays by role, the decoder's among them.
        function: (images, images) -> f32[B], by each image alone.
        x0_hat: f32[B, h, w, D].
        x0: f32[B, h, w, D].
        batch_size: Number of images of either that are decoded and compared at once; 0
            for all.
    """
    if not stands(net):
        return function(x0_hat, x0)

    def apart(x0_hat, x0):
        decode = net.space.to_images
        return function(decode(frozen, x0_hat), decode(frozen, x0))

    return _in_parts(apart, batch_size)(x0_hat, x0)


def _in_parts(function: Callable[..., Any], batch_size: int) -> Callable[..., Any]:
    """The function of so many examples at once, computed again for the gradient."""
    again = jax.checkpoint(function)

    def run(*arrays):
        num = len(arrays[0])
        if not 0 < batch_size < num:
            return again(*arrays)
        whole = num - num % batch_size
        parts = [x[:whole].reshape(-1, batch_size, *x.shape[1:]) for x in arrays]
        made = jax.lax.map(lambda part: again(*part), parts)
        made = made.reshape(whole, *made.shape[2:])
        if whole == num:
            return made
        return jnp.concatenate([made, again(*(x[whole:] for x in arrays))])

    return run
