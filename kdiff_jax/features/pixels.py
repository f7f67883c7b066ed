"""The numbers of an image itself, in [-1, 1]: for tiny images."""

import numpy as np
from jaxtyping import Float64, UInt8

from kdiff_jax.features import Extractor

FILE = None


def prepare(
    images: UInt8[np.ndarray, "N H W C"], preprocessing: str
) -> dict[str, Float64[np.ndarray, "N _D"]]:
    """The pixels, as many features as the image has numbers."""
    del preprocessing
    return {"pixels": images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1}


EXTRACTOR = Extractor({"pixels": None}, "pixels", prepare=prepare, channels=None)
