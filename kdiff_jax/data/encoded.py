"""Sets whose images are files in the formats of Pillow, wherever those lie."""

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer
from PIL import Image, ImageOps, UnidentifiedImageError

from kdiff_jax.data.images import BACKGROUND, Images
from kdiff_jax.data.resize import (
    GREY,
    Fit,
    Resampling,
    check_channels,
    colour,
    described,
    to_array,
)
from kdiff_jax.errors import DataError, ImageError, UserError

log = logging.getLogger(__name__)

Image.init()  # some formats come with some builds alone
FORMATS = tuple(
    name
    for name in "PNG JPEG WEBP GIF BMP DIB TIFF PPM JPEG2000 AVIF".split()
    if name in Image.OPEN
)
SUFFIXES = tuple(
    sorted(
        k for k, v in Image.registered_extensions().items() if v in (*FORMATS, "MPO")
    )
)
PNG = b"\x89PNG"
MAX_BYTES = 2**28  # of one file; dataset.json of ImageNet has 6e7
# Sets up to this size are decoded once, at the start; CIFAR-10 has 154 MB.
MAX_DECODED = 256 * 2**20


DESCRIBED = ("size", "crop", "resample", "fit", "jpeg")  # of a look


class Look(NamedTuple):
    """How the images of a set become arrays, see `resize.to_array`.

    Attributes:
        size: Side in pixels; None needs images that are all of one size.
        channels: 1 or 3; None takes those of the first image, and then no image of
            colours may stand among grey ones.
        background: Colour below transparent pixels: a name, or "#rrggbb".
        crop: Side of the square that is cut out first, in pixels.
        resample: Filter of the resize.
        fit: How images that are no squares become some.
        jpeg: Quality of a JPEG that they are kept as afterwards; None for none.
    """

    size: int | None = None
    channels: int | None = None
    background: str = BACKGROUND
    crop: int | None = None
    resample: Resampling = Resampling.LANCZOS
    fit: Fit = "crop"
    jpeg: int | None = None

    def described(self) -> dict[str, Any]:
        """What it does to images, in plain values."""
        own = self._asdict()
        return described(**{k: v for k, v in own.items() if k in DESCRIBED})

    def check(self) -> None:
        """Raises ConfigError if an option is none of these."""
        colour(self.background)
        check_channels(self.channels)


def from_encoded(
    fetch: Callable[[int], tuple[str, bytes]],
    labels: Integer[np.ndarray, " N"],
    *,
    num_classes: int,
    name: str,
    prefix: str = "",
    look: Look,
    at_once: bool = True,
) -> Images:
    """A set of encoded images.

    Of an animation the first frame is taken. A line of the log says so, and another one
    that there are transparent pixels, once in a set.

    Args:
        fetch: (number) -> (name, content); called from several threads.
        labels: One for each image.
        num_classes: Number of classes; 0 when there are no labels.
        name: Name of the set.
        prefix: Prefix of the images' names in messages: where the set lies.
        look: How they become arrays.
        at_once: Decode a small set here; False decodes each image when it is read, and
            none before.

    Raises:
        DataError: If an image is not readable, is too large to be true, or is not of
            the size of the others; here for small sets, else when it is read. It is an
            `ImageError` if its content is at fault.
    """
    look.check()
    once = _Once()

    def decode(number, shape):
        relative, content = fetch(number)
        where = prefix + relative
        with _one_line(where):
            image, num_frames = _open(where, content)
            if num_frames > 1:
                once.say("%s: the first of its %d frames is taken", where, num_frames)
            if image.has_transparency_data:
                ground = look.background
                once.say(
                    "%s: has transparency, drawn on data.background=%s", where, ground
                )
            channels = look.channels or (None if shape is None else shape[2])
            if channels == 1 and not look.channels and image.mode not in GREY:
                raise DataError(
                    f"{where}: a colour image in a set of grey ones; make all colour or"
                    " all grey, --config.data.channels=3 or 1"
                )
            array = to_array(
                image, where=where, **look._replace(channels=channels)._asdict()
            )
        if shape is not None and array.shape != shape:
            raise DataError(
                f"{where}: {array.shape[1]}x{array.shape[0]} in a set of"
                f" {shape[1]}x{shape[0]}; set data.size to resize all"
            )
        return array

    if at_once or not (look.size and look.channels):
        shape = decode(0, None).shape
    else:
        shape = (look.size, look.size, look.channels)

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
        encoded=fetch,
        prepared=look.described(),
    )
    if not at_once or len(labels) * np.prod(shape) > MAX_DECODED:
        return images
    parts = np.array_split(np.arange(len(labels)), -(-len(labels) // 64))
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        array = np.concatenate(list(pool.map(read, parts)))
    return images._replace(read=lambda indices: array[indices], in_memory=array)


def are_grey(images: Images) -> bool:
    """Whether all files of a set are grey, whatever they are converted to.

    Headers alone are looked at, up to the first file that is not.
    """
    fetch = images.encoded
    if fetch is None:
        return False
    for number in range(images.num):
        where, content = fetch(number)
        with _one_line(where), Image.open(io.BytesIO(content), formats=FORMATS) as one:
            if one.mode not in GREY:
                return False
    return True


class _Once:
    """Says each kind of line once, whichever thread comes first."""

    def __init__(self):
        self._said, self._lock = set(), threading.Lock()

    def say(self, line: str, *values) -> None:
        with self._lock:
            new = line not in self._said
            self._said.add(line)
        if new:
            log.info(line, *values)


@contextlib.contextmanager
def _one_line(where: str):
    """Whatever a decoder raises is a matter of the file: they raise all there is."""
    try:
        yield
    except DataError as error:
        raise ImageError(str(error)) from error
    except UserError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # names a buffer in memory
            why = f"its content is none of {', '.join(FORMATS)}"
        raise ImageError(
            f"{where}: not a readable image ({why}); replace or delete it"
        ) from error


def _open(where: str, content: bytes) -> tuple[Image.Image, int]:
    """The decoded first frame, turned as the camera says, and the number of frames."""
    if content.startswith(PNG):
        # Loading skips the sums of the parts that hold pixels.
        Image.open(io.BytesIO(content), formats=("PNG",)).verify()
    # What it is says the content, whatever the name of the file does.
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"{where}: {image.width}x{image.height}, above Pillow's limit of"
            f" {limit} pixels; scale it down"
        )
    # Pillow cuts colours of 16 bits off at 8, and of grey knows no largest value.
    # "BGR;16" is a pixel of a bitmap, of 16 bits in all.
    if image.mode[0] in "IF" or re.search(r"(?<!BGR);16", str(image.tile)):
        raise DataError(f"{where}: more than 8 bits a channel; convert it to 8 bits")
    # Phones keep a second view beside a photo.
    num_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    return ImageOps.exif_transpose(image), num_frames  # loads it, too
