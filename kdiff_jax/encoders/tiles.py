"""Images too large for a network's memory, in overlapping tiles that are blended.

As diffusers' `enable_tiling`: tiles overlap by a quarter, and where two overlap, the
result goes over from one to the other linearly. Each tile has norms and attention of
its own, so the result is near the whole image's, not equal to it.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

OVERLAP = 4  # tiles overlap by one part of so many


def tiled(
    function: Callable[[Array], Array],
    x: Float[Array, "B H W C"],
    *,
    tile: int,
    tile_out: int,
) -> Float[Array, "B H2 W2 C2"]:
    """`function` of an image, tile by tile.

    Args:
        function: Whatever scales the sides by tile_out / tile; each shape of tiles (up
            to four: those at the right and the lower edge are smaller) is one program.
        x: Images.
        tile: Side of a tile in `x`; a multiple of `OVERLAP`.
        tile_out: Side of its result; a multiple of `OVERLAP`.
    """
    step, blend = tile - tile // OVERLAP, tile_out // OVERLAP
    keep = tile_out - blend
    above: list[Array] = []
    rows = []
    for top in range(0, x.shape[1], step):
        tiles: list[Array] = []
        for k, left in enumerate(range(0, x.shape[2], step)):
            here = function(x[:, top : top + tile, left : left + tile])
            if above:
                here = _blended(above[k], here, blend, axis=1)
            if tiles:
                here = _blended(tiles[-1], here, blend, axis=2)
            tiles.append(here)
        rows.append(jnp.concatenate([t[:, :keep, :keep] for t in tiles], axis=2))
        above = tiles
    return jnp.concatenate(rows, axis=1)


def _blended(before: Array, here: Array, blend: int, *, axis: int) -> Array:
    """`here`, whose first `blend` places come over from the last ones of `before`."""
    blend = min(before.shape[axis], here.shape[axis], blend)
    shape = [1] * here.ndim
    shape[axis] = blend
    weight = (jnp.arange(blend) / blend).reshape(shape)
    start, rest = jnp.split(here, [blend], axis=axis)
    end = jnp.split(before, [before.shape[axis] - blend], axis=axis)[1]
    mixed = end * (1 - weight) + start * weight
    return jnp.concatenate([mixed, rest], axis=axis)
