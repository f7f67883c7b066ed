"""From an image of any kind and size to uint8[H, W, C]."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kdiff_jax.errors import DataError

Resampling = Image.Resampling


def to_array(
    image: Image.Image,
    *,
    where: str,
    size: int | None = None,
    channels: int | None = None,
    crop: int | None = None,
    resample: Resampling = Resampling.LANCZOS,
) -> UInt8[np.ndarray, "H W C"]:
    """Crop the centre, resize, and fix the number of channels.

    Args:
        where: The file, for messages.
        size: Side of the result; the largest centred square is scaled to it. None keeps
            the image as it is.
        channels: 1 or 3; None takes 1 for a grey image and 3 for all others.
        crop: Side of the centred square that is cut out first, in pixels.
        resample: Filter of the resize, antialiased.

    Raises:
        DataError: If the image has more than 8 bits, is colour where grey was asked
            for, or is smaller than `crop`.
    """
    if image.mode[0] in "IF":
        raise DataError(f"{where}: more than 8 bits a channel; convert it to 8 bits")
    is_grey = image.mode in ("1", "L", "LA")
    if channels == 1 and not is_grey:
        raise DataError(
            f"{where}: a colour image in a set of grey ones; set channels=3"
        )
    image = image.convert("L" if (channels or (1 if is_grey else 3)) == 1 else "RGB")
    side = min(image.size)
    if crop is not None and crop > side:
        raise DataError(f"{where}: {image.size} is smaller than the crop of {crop}")
    if crop is not None or size is not None:
        side = crop or side
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), resample)
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def resize_all(
    array: UInt8[np.ndarray, "N H W C"], size: int | None, *, name: str
) -> np.ndarray:
    """uint8[N, size, size, C]: each image as by `to_array`; None keeps them."""
    if size is None or array.shape[1:3] == (size, size):
        return array
    out = np.empty((len(array), size, size, array.shape[3]), np.uint8)
    for i, image in enumerate(array):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        where = f"{name}, image {i}"
        out[i] = to_array(picture, where=where, size=size, channels=array.shape[3])
    return out
