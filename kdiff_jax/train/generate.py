"""Images from a model, in batches, over all devices.

Image number i of a seed starts from the same noise on any number of devices.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import rng
from kdiff_jax.data.pixels import to_uint8
from kdiff_jax.errors import Interrupted
from kdiff_jax.method import Net
from kdiff_jax.samplers import Sampler
from kdiff_jax.train import parallel, signals, watchdog


def noise(seed, positions, image_shape, purpose: str):
    """(z, keys) of the images numbered `positions`: z f32[B, H, W, C], keys Key[B].

    Images of another purpose, such as pairs to train on, never share their noise.
    """
    root = jax.random.key(seed)
    keys = rng.stream(rng.example_keys(root, 0, positions), purpose)
    return rng.normal(keys, "z", tuple(image_shape)), keys


def make_generator(
    net: Net, sampler: Sampler, *, image_shape, mesh: Mesh, purpose: str = "sample"
) -> Callable[..., tuple]:
    """Returns (params, seed, positions, y) -> (z, x0), both f32[B, H, W, C].

    B must be a multiple of the number of devices.
    """
    split = NamedSharding(mesh, P(mesh.axis_names))

    @jax.jit
    def generate(params, seed, positions, y):
        positions = jax.lax.with_sharding_constraint(positions, split)
        z, keys = noise(seed, positions, image_shape, purpose)

        def denoise(x_t, t, y):
            return net.apply(params, x_t, t, y)

        return z, sampler.sample(denoise, z, y, keys=keys)

    return generate


def batches(
    generate,
    params,
    *,
    seed: int,
    labels: np.ndarray,
    batch_size: int,
    mesh: Mesh,
    first: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (z, x0) of images first .. first + len(labels) - 1 as host arrays.

    Args:
        generate: See `make_generator`.
        params: Of the network.
        seed: Of the noise.
        labels: i32[N], the label of each image.
        batch_size: Rounded up to a multiple of the devices; the last batch is padded,
            so that one program serves all.
        mesh: Of the generator.
        first: The number of the first image.

    Raises:
        Interrupted: If a signal asked to stop.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    params = parallel.replicate(params, mesh)
    for start in range(0, len(labels), batch_size):
        if signals.asked():
            raise Interrupted("stopped while sampling; run the same command again")
        y = np.resize(np.asarray(labels[start : start + batch_size]), batch_size)
        positions = np.arange(first + start, first + start + batch_size, dtype=np.int32)
        z, x0 = generate(params, seed, positions, np.asarray(y, np.int32))
        watchdog.beat()
        num = min(batch_size, len(labels) - start)
        yield _to_host(z)[:num], _to_host(x0)[:num]


def images(*args, **keywords) -> np.ndarray:
    """All images of `batches` as uint8 [N, H, W, C]."""
    return np.concatenate([to_uint8(x0) for _, x0 in batches(*args, **keywords)])


def cycled_labels(num: int, num_classes: int, first: int = 0) -> np.ndarray:
    """Image i gets label i mod num_classes; zeros without classes."""
    return (np.arange(first, first + num) % max(num_classes, 1)).astype(np.int32)


def _to_host(x) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
