"""Images to the moments of their latents, on all devices of a host."""

import functools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import pixels
from kdiff_jax.data import latents
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ImageError, NumericsError
from kdiff_jax.latent import Autoencoder
from kdiff_jax.train import parallel, watchdog

log = logging.getLogger(__name__)

THREADS = 16  # that decode images


def encoder(vae: Autoencoder, batch_size: int, *, flip: bool):
    """(images, which, lost) -> {name: float16[n, h, w, 2D]}, on this host's devices.

    Args:
        vae: The autoencoder.
        batch_size: Images that a device encodes at once.
        flip: Whether the mirrored images are encoded, too.
    """
    mesh = parallel.make_mesh(jax.local_devices())
    batch_size *= mesh.size
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(mesh.axis_names))
    params = jax.device_put(vae.params, whole)

    @functools.partial(jax.jit, out_shardings=split)
    def run(params, x):
        variables = {"params": params}
        x = pixels.to_float(x)
        moments: Any = vae.module.apply(variables, x, method="encode")
        return jax.numpy.concatenate(moments, axis=-1)

    def encode(images: Images, which: range, lost) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {latents.MOMENTS: []}
        if flip:
            found[latents.FLIPPED] = []
        started: list[list[jax.Array]] = []

        def take():
            for rows, y in zip(found.values(), started.pop(), strict=True):
                y = jax.device_get(y).astype(np.float16)
                rows.append(_checked(y, images, which, rows))

        for x in _read_ahead(images, which, batch_size, lost):
            views = [x, x[:, :, ::-1]][: len(found)]
            y = [run(params, jax.device_put(view, split)) for view in views]
            if started:  # the next one is under way
                take()
            started.append(y)
            watchdog.beat()
        take()
        return {k: np.concatenate(rows)[: len(which)] for k, rows in found.items()}

    return encode


def _checked(y: np.ndarray, images: Images, which: range, before) -> np.ndarray:
    """The moments of a batch, if they are finite."""
    if not np.isfinite(y).all():
        first = which.start + sum(map(len, before))
        bad = first + int(np.flatnonzero(~np.isfinite(y).all(axis=(1, 2, 3)))[0])
        raise NumericsError(
            f"image {bad} of {images.name}: its latents are not finite; encode in"
            " float32 (--precision=float32), or delete the image"
        )
    return y


def _read(images: Images, numbers: np.ndarray, lost) -> np.ndarray:
    """Images; black is in the place of those that cannot be read, if they may be."""
    try:
        return images.read(numbers)
    except ImageError as error:
        if lost is None:
            raise
        if len(numbers) > 1:
            return np.concatenate(
                [_read(images, numbers[[i]], lost) for i in range(len(numbers))]
            )
        lost[int(numbers[0])] = str(error)
        log.warning("left out: %s", error)
        return np.zeros((1, *images.shape), np.uint8)


def _read_ahead(
    images: Images, which: range, size: int, lost: dict[int, str] | None
) -> Iterator[np.ndarray]:
    """Batches of bytes; the last is filled up, and the next is read meanwhile."""
    with ThreadPoolExecutor(THREADS) as pool:

        def begin(start):
            numbers = np.arange(start, min(start + size, which.stop))
            parts = np.array_split(numbers, min(THREADS, len(numbers)))
            return [pool.submit(_read, images, part, lost) for part in parts]

        starts = list(which[::size])
        coming = begin(starts[0])
        for i in range(len(starts)):
            now = coming
            coming = begin(starts[i + 1]) if i + 1 < len(starts) else []
            x = np.concatenate([part.result() for part in now])
            yield np.pad(x, ((0, size - len(x)), (0, 0), (0, 0), (0, 0)))
