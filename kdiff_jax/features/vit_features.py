"""What DINOv2's and CLIP's networks do to images, and how their files are read."""

import os

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from kdiff_jax.features import Extractor, WeightsFile, frozen
from kdiff_jax.features.resize import resize, short_side
from kdiff_jax.features.vit import VisionTransformer, renamed
from kdiff_jax.types import Params

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load(
    network: VisionTransformer, name: str, file: WeightsFile, path: str | os.PathLike
) -> Params:
    """Parameters of a network; see `frozen.load`."""
    return frozen.load(network, path, network=name, wanted=file.wanted, rename=renamed)


def dinov2(network: VisionTransformer) -> Extractor:
    """What metrics read of a DINOv2: the class token behind the last norm.

    Images become squares, whatever their shape. "edm2" resizes numbers, "dgm-eval"
    bytes, with the same filter.
    """

    def extract(
        params: Params, images: Num[Array, "B H W 3"], preprocessing: str
    ) -> dict[str, Float[Array, "B D"]]:
        shape, whole = (frozen.SIZE, frozen.SIZE), preprocessing == "dgm-eval"
        x = resize(images.astype(jnp.float32), shape, "bicubic", whole=whole)
        x = _normalised(x, frozen.IMAGENET_MEAN, frozen.IMAGENET_STD)
        return {"class": network.apply({"params": params}, x)}  # type: ignore[dict-item]

    return Extractor(
        {"class": network.width},
        main="class",
        extract=extract,
        preprocessings=("edm2", "dgm-eval"),
    )


def clip(
    network: VisionTransformer,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
    size: int = frozen.SIZE,
) -> Extractor:
    """What metrics read of a CLIP's image tower: the projected feature.

    Images are resized by their shorter side, as bytes, and cut to the centred square.
    """

    def extract(
        params: Params, images: Num[Array, "B H W 3"], preprocessing: str
    ) -> dict[str, Float[Array, "B D"]]:
        del preprocessing
        x = images.astype(jnp.float32)
        x = short_side(x, size, "bicubic", whole=True)
        x = _normalised(x, mean, std)
        found = jnp.asarray(network.apply({"params": params}, x))
        length = jnp.linalg.norm(found, axis=1, keepdims=True)
        return {"features": found, "unit": found / length}

    assert network.out is not None
    return Extractor(
        {"features": network.out, "unit": network.out},
        main="features",
        extract=extract,
        preprocessings=("clip",),
    )


def _normalised(x, mean, std):
    return frozen.normalise(x / 127.5 - 1, mean, std)
