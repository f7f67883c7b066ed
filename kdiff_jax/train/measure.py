"""Features of many images, generated or real, without keeping the images."""

import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from kdiff_jax.data.images import Images
from kdiff_jax.data.pixels import to_uint8
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.moments import Moments
from kdiff_jax.samplers import Sampler
from kdiff_jax.train import generate, parallel


class Generated(NamedTuple):
    """What was seen of a model's images."""

    moments: Moments
    images_per_second: float
    first: np.ndarray  # uint8[n, H, W, C], n <= 20


def generated(
    model: Any,
    sampler: Sampler,
    features: Features | None,
    *,
    mesh,
    num_images: int,
    seed: int,
    batch_size: int,
    labels: np.ndarray,
) -> Generated:
    """Moments of the features of `num_images` images, quantised to uint8.

    Args:
        model: An `interop.Model`.
        sampler: How images are made.
        features: See `metrics.features`; None measures the speed alone.
        mesh: The devices.
        num_images: How many.
        seed: Of the noise.
        batch_size: Images a call of the sampler.
        labels: i32[num_images].
    """
    make = generate.make_generator(
        model.net, sampler, image_shape=model.image_shape, mesh=mesh
    )
    params = parallel.replicate(model.params, mesh)
    moments, first = Moments(), []
    batch_size = min(batch_size, num_images)
    for _, x0 in generate.batches(
        make,
        params,
        seed=seed,
        labels=labels[:num_images],
        batch_size=batch_size,
        mesh=mesh,
    ):
        images = np.asarray(to_uint8(x0))
        if features is not None:
            moments = moments.update(features.apply(images))
        first = images[:20] if not len(first) else first
    speed = images_per_second(make, params, labels[:batch_size], mesh)
    return Generated(moments, speed, np.asarray(first))


def images_per_second(make, params, labels: np.ndarray, mesh) -> float:
    """Speed of a compiled generator on full batches, images left on the device.

    The median of rounds over two seconds, and of three at least. A round is as many
    calls, one behind the other, as take half a second: a call of a one-step student is
    too short to be timed, and its devices must not wait for the host in between.
    """
    size = -(-len(labels) // mesh.size) * mesh.size
    positions = np.arange(size, dtype=np.int32)
    y = np.resize(labels, size).astype(np.int32)

    def seconds_of(num_calls):
        began, last = time.perf_counter(), None
        for _ in range(num_calls):
            last = make(params, 0, positions, y)
        jax.block_until_ready(last)
        return time.perf_counter() - began

    num_calls = max(1, round(0.5 / seconds_of(1)))
    rounds: list[float] = []
    while len(rounds) < 3 or sum(rounds) < 2:
        rounds.append(seconds_of(num_calls))
    return size * num_calls / statistics.median(rounds)


def of_data(images: Images, features: Features, *, batch_size: int = 1000) -> Moments:
    """Moments of the features of a whole data set."""
    moments = Moments()
    for start in range(0, images.num, batch_size):
        indices = np.arange(start, min(start + batch_size, images.num))
        moments = moments.update(features.apply(images.read(indices)))
    return moments
