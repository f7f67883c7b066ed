"""Sets whose images are PNG, JPEG or WebP files, wherever those lie."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Integer
from PIL import Image, ImageOps

from kdiff_jax.data.images import Images
from kdiff_jax.data.resize import Resampling, to_array
from kdiff_jax.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Sets up to this size are decoded once, at the start; CIFAR-10 has 154 MB.
MAX_DECODED = 256 * 2**20


def from_encoded(
    fetch: Callable[[int], tuple[str, bytes]],
    labels: Integer[np.ndarray, " N"],
    *,
    num_classes: int,
    name: str,
    size: int | None,
    crop: int | None = None,
    resample: Resampling = Resampling.LANCZOS,
) -> Images:
    """A set of encoded images; the first one says whether they are grey or colour.

    Args:
        fetch: (number) -> (name for messages, content); called from several threads.
        labels: One for each image.
        num_classes: 0 when there are no labels.
        name: Of the set.
        size: See `resize.to_array`; None needs images that are all of one size.
        crop: See `resize.to_array`.
        resample: See `resize.to_array`.

    Raises:
        DataError: If an image is not readable, is too large to be true, or is not of
            the size of the others; here for small sets, else when it is read.
    """
    if len(labels) and labels.min() < 0:
        raise DataError(f"{name}: labels from {labels.min()}; they must start at 0")

    def decode(number, shape):
        where, content = fetch(number)
        image = _open(where, content)
        channels = None if shape is None else shape[2]
        array = to_array(
            image,
            where=where,
            size=size,
            channels=channels,
            crop=crop,
            resample=resample,
        )
        if shape is not None and array.shape != shape:
            raise DataError(
                f"{where}: {array.shape[1]}x{array.shape[0]} in a set of"
                f" {shape[1]}x{shape[0]}; set data.size to resize all"
            )
        return array

    shape = decode(0, None).shape

    def read(indices):
        out = np.empty((len(indices), *shape), np.uint8)
        for i, number in enumerate(indices):
            out[i] = decode(int(number), shape)
        return out

    images = Images(
        read=read,
        labels=labels.astype(np.int32),
        num=len(labels),
        shape=shape,
        num_classes=num_classes,
        in_memory=None,
        name=name,
    )
    if len(labels) * np.prod(shape) > MAX_DECODED:
        return images
    parts = np.array_split(np.arange(len(labels)), -(-len(labels) // 64))
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        array = np.concatenate(list(pool.map(read, parts)))
    return images._replace(read=lambda indices: array[indices], in_memory=array)


def _open(where, content):
    try:
        # Only these decoders see the content, whatever the name of the file says.
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP"))
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise DataError(
                f"{where}: {image.width}x{image.height}, above Pillow's limit of"
                f" {limit} pixels; scale it down"
            )
        return ImageOps.exif_transpose(image)  # loads it, too
    except DataError:
        raise
    # Pillow's decoders raise these, and bombs are an Exception of their own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = " ".join(str(error).split())
        raise DataError(
            f"{where}: not a readable image ({why}); replace or delete it"
        ) from error
