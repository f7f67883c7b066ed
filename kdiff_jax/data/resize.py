"""From an image of any kind and size to uint8[H, W, C]."""

import io
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor

from kdiff_jax.errors import ConfigError, DataError

Resampling = Image.Resampling
Fit = Literal["crop", "crop_torch", "squash"]
GREY = ("1", "L", "LA", "La")


def to_array(
    image: Image.Image,
    *,
    where: str,
    size: int | None = None,
    channels: int | None = None,
    crop: int | None = None,
    resample: Resampling = Resampling.LANCZOS,
    background: str = "white",
    fit: Fit = "crop",
    jpeg: int | None = None,
) -> UInt8[np.ndarray, "H W C"]:
    """Draws on the background, fixes the number of channels, crops the centre, resizes.

    Args:
        where: The file, for messages.
        size: Side of the result; the largest centred square is scaled to it. None keeps
            the image as it is.
        channels: 1 (the luminance of ITU-R 601) or 3; None takes 1 for a grey image and
            3 for all others.
        crop: Side of the centred square that is cut out first, in pixels.
        resample: Filter of the resize, antialiased.
        background: Colour below transparent pixels, see `colour`.
        fit: "crop" scales the largest centred square, "crop_torch" the one that
            torchvision cuts, which may lie a pixel beside, "squash" the whole image.
        jpeg: Quality of a JPEG that the result is kept as, and read from again.

    Raises:
        DataError: If the image is smaller than `crop`.
    """
    mode = "L" if (channels or (1 if image.mode in GREY else 3)) == 1 else "RGB"
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, colour(background))
        image = Image.alpha_composite(ground, drawn).convert("RGB")
    image = image.convert(mode)
    side = min(image.size)
    if crop is not None and crop > side:
        raise DataError(f"{where}: {image.size} is smaller than the crop of {crop}")
    if fit != "squash" and (crop is not None or size is not None):
        side = crop or side
        room = image.width - side, image.height - side
        halves = (round(x / 2) if fit == "crop_torch" else x // 2 for x in room)
        left, top = halves
        image = image.crop((left, top, left + side, top + side))
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), resample)
    if jpeg is not None:
        image = as_jpeg(image, jpeg)
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as a JPEG has it."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert(image.mode)


def described(
    size: int | None,
    *,
    crop: int | None = None,
    resample: Resampling = Resampling.LANCZOS,
    fit: Fit = "crop",
    jpeg: int | None = None,
) -> dict[str, Any]:
    """What `to_array` does to images, in plain values; it flips none."""
    square = {"squash": "none", "crop_torch": "largest centred square of torchvision"}
    square = square.get(fit, "largest centred square")
    cut = None if size is None and crop is None else crop or square
    filtered = None if size is None else resample.name.lower()
    antialias = None if size is None else True
    about = {"crop": cut, "resize": size, "filter": filtered, "antialias": antialias}
    kept = {} if jpeg is None else {"jpeg": jpeg}
    return {**about, "flip": False, **kept}


def check_channels(channels: int | None) -> None:
    """Raises ConfigError unless it is 1, 3 or None."""
    if channels not in (None, 1, 3):
        raise ConfigError(
            f"data.channels={channels}: must be 1 or 3, or 0 for those of the images"
        )


def colour(background: str) -> tuple[int, int, int]:
    """(red, green, blue) of a colour's name or "#rrggbb".

    Raises:
        ConfigError: If there is no such colour.
    """
    try:
        return ImageColor.getrgb(background)[:3]
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"data.background={background!r}: no colour; give a name as white or black,"
            " or #rrggbb"
        ) from error


def resize_all(
    array: UInt8[np.ndarray, "N H W C"],
    size: int | None,
    *,
    name: str,
    channels: int | None = None,
) -> np.ndarray:
    """uint8[N, size, size, channels]: each image as by `to_array`; None keeps them."""
    height, width, had = array.shape[1:]
    shape = (size or height, size or width, channels or had)
    if shape == array.shape[1:]:
        return array
    out = np.empty((len(array), *shape), np.uint8)
    for i, image in enumerate(array):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        where = f"{name}, image {i}"
        out[i] = to_array(picture, where=where, size=size, channels=shape[2])
    return out
