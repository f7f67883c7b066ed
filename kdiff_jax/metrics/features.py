"""Images to features, by name. The name of the features is the name of the metric."""

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from kdiff_jax import registry
from kdiff_jax.errors import ConfigError
from kdiff_jax.features import frozen, resnet
from kdiff_jax.features.resnet import ResNet


class Features(NamedTuple):
    """A feature extractor."""

    name: str
    dim: int | None  # None: as many as an image has numbers
    apply: Callable  # uint8[N, H, W, C] -> f32[N, dim] or f64[N, dim], on the host
    channels: int | None = None  # of the images; None: any


def make(
    name: str, *, weights: str | os.PathLike | None = None, batch_size: int = 256
) -> Features:
    """The feature extractor `name`.

    Args:
        name: "pixels": the image itself, in [-1, 1] (for tiny images).
            "resnet56": 64 pooled activations of a CIFAR-10 classifier (RGB images).
        weights: The network's file; for "resnet56" an .npz with PyTorch's names
            (conv1.weight, layer1.0.bn1.running_mean, ..., linear.bias).
        batch_size: Images a call of the network; the last batch is filled up, so that
            one program serves any number.

    Raises:
        ConfigError: If there are no such features, or weights miss or are too much.
        CheckpointError: If the weights cannot be read or are of another network.
    """
    maker = registry.entry(_MAKERS, name, what="features")
    return maker(weights, batch_size)


def names() -> tuple[str, ...]:
    """The features that `make` knows."""
    return tuple(_MAKERS)


def metric_name(features: Features | str) -> str:
    """The key under which a Frechet distance on these features is reported."""
    return f"fd_{features if isinstance(features, str) else features.name}"


def dim_of(features: Features, image_shape: tuple[int, ...]) -> int:
    """How many features an image of this shape has."""
    return features.dim or math.prod(image_shape)


def check_shape(features: Features, image_shape: tuple[int, ...]) -> None:
    """Raises ConfigError if the features are none of such images."""
    if features.channels not in (None, image_shape[-1]):
        raise ConfigError(
            f"features={features.name}: reads images of {features.channels} channels,"
            f" and these have {image_shape[-1]}; set features to pixels"
        )


def _pixels(weights, batch_size):
    del batch_size  # no network
    if weights is not None:
        raise ConfigError(f"weights={weights}: pixels need none; leave it out")

    def apply(images: UInt8[np.ndarray, "N H W C"]) -> Float64[np.ndarray, "N D"]:
        return images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1

    return Features("pixels", None, apply)


def _resnet56(weights, batch_size):
    if weights is None:
        raise ConfigError(
            f"weights=None: resnet56 needs its file; give {resnet.WANTED}"
        )
    network = ResNet()
    params = resnet.load(weights)

    @jax.jit
    def forward(params, images):
        mean, std = jnp.array(frozen.IMAGENET_MEAN), jnp.array(frozen.IMAGENET_STD)
        x = (images / 255 - mean[None, None, None]) / std[None, None, None]
        return network.apply({"params": params}, x)[0]

    def apply(images: UInt8[np.ndarray, "N H W C"]) -> Float32[np.ndarray, "N 64"]:
        check_shape(found, images.shape)
        return _in_batches(lambda part: forward(params, part), images, batch_size, 64)

    found = Features("resnet56", 64, apply, channels=3)
    return found


# Inception joins here with its weight file; its metric is then called `fid`.
_MAKERS = {"pixels": _pixels, "resnet56": _resnet56}


def _in_batches(function, images, batch_size, dim):
    features = np.empty((len(images), dim), np.float32)
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        fill = ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0))
        values = function(np.pad(part, fill))
        features[start : start + len(part)] = np.asarray(values)[: len(part)]
    return features
