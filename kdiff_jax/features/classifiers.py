"""The table of classifiers whose features a discriminator may read."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from kdiff_jax.features import deit, efficientnet, frozen, resnet, vgg
from kdiff_jax.types import Params


class Classifier(NamedTuple):
    """A frozen network of others.

    Attributes:
        features: (params, images in [-1, 1], dtype) -> [[B, H_i, W_i, C_i], ...].
        load: (path) -> params.
        shapes: () -> shapes of its parameters, without its file.
        pyramid: See `projected.Discriminator`.
    """

    features: Callable[..., Any]
    load: Callable[..., Any]
    shapes: Callable[[], Params]
    pyramid: tuple[int, ...] = ()


def _of(file: Any, module: nn.Module, pyramid: tuple[int, ...] = ()) -> Classifier:
    shapes = functools.partial(frozen.shapes, module)
    return Classifier(file.features, file.load, shapes, pyramid)


CLASSIFIERS = {
    "vgg16_bn": _of(vgg, vgg.BN),
    "efficientnet_lite0": _of(efficientnet, efficientnet.LITE0),
    "deit_base_distilled": _of(deit, deit.BASE, deit.PYRAMID),
    "resnet56": _of(resnet, resnet.ResNet()),
}
