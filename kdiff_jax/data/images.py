"""Sets of images, all seen alike: `load(name, ...)` gives `Images`, read by index.

Images are uint8 NHWC on the host; `pixels.to_float` makes them [-1, 1] on the device.
In which order they are read is the matter of `batches`, not of this module.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from kdiff_jax import arguments, registry
from kdiff_jax.data.resize import described
from kdiff_jax.errors import ConfigError

# Sets up to this size are offered whole, to be kept on the device.
MAX_IN_MEMORY = 2 * 2**30

PACKAGE = "kdiff_jax.data"
BACKGROUND = "white"  # below transparent pixels
# Names of tensorflow-datasets that need no prefix "tfds:".
TFDS_NAMES = (
    "celeb_a",
    "cifar10",
    "cifar100",
    "downsampled_imagenet/64x64",
    "fashion_mnist",
    "lsun/bedroom",
    "lsun/church_outdoor",
    "mnist",
)


class Images(NamedTuple):
    """A set of images.

    Attributes:
        read: (int64[n] indices) -> uint8[n, H, W, C]; safe to call from many threads.
        labels: int32[num], zeros when there are none.
        num: Number of images.
        shape: (H, W, C).
        num_classes: 0 when the data has no labels.
        in_memory: uint8[num, H, W, C] when the set is small enough, else None.
        name: Name for messages and reports.
        encoded: (number) -> (name, content) of the file of an image, as it lies on
            disk; None of sets that have no such files.
        prepared: What was done to the images as they were found, see
            `resize.described`.
        num_views: Number of views of each image, of which `Batches` draws one in each
            epoch; `read` and `in_memory` have view k of image i at k * num + i.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.data import images
        >>> digits = images.load("digits")
        >>> digits.num, digits.shape, digits.num_classes
        (1797, (8, 8, 1), 10)
        >>> digits.batch(np.array([0, 1]))["y"].tolist()
        [0, 1]
    """

    read: Callable[[Any], np.ndarray]
    labels: np.ndarray
    num: int
    shape: tuple[int, int, int]
    num_classes: int
    in_memory: np.ndarray | None
    name: str
    encoded: Callable[[int], tuple[str, bytes]] | None = None
    prepared: Mapping[str, Any] = described(None)
    num_views: int = 1

    def batch(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """The entries of a batch: x0 uint8[n, H, W, C] and y int32[n].

        Args:
            indices: int64[n], numbers of images, and of their views.
        """
        return {"x0": self.read(indices), "y": self.labels[indices % self.num]}


def load(
    name: str,
    *,
    path: str | None = None,
    split: str = "train",
    size: int | None = None,
    use_labels: bool = True,
    channels: int | None = None,
    background: str = BACKGROUND,
    **options: Any,
) -> Images:
    """The set of this name.

    Args:
        name: `digits`, `synthetic`, `mixture`, `npz`, `folder`, `edm_zip`, one of
            TFDS_NAMES, or "tfds:NAME".
        path: The file or folder of `npz`, `folder`, `edm_zip`; the data_dir of tfds.
            `~` is the home folder.
        split: Split of the data set, as the set itself names it.
        size: Side in pixels that images are cropped and resized to; None keeps them.
        use_labels: False reads no labels: zeros, and num_classes 0.
        channels: 1 or 3, that images are converted to; None keeps them.
        background: Colour below transparent pixels, of sets that are image files.
        **options: What else this source takes; see its module.

    Raises:
        ConfigError: If no such source exists, or it does not take an option.
        DataError: If the data is missing or damaged.

    Examples:
        >>> from kdiff_jax.data import images
        >>> found = images.load("synthetic", size=16, num_images=100)
        >>> found.num, found.shape, found.labels[:3].tolist()
        (100, (16, 16, 3), [0, 1, 2])
    """
    function, rest = source(name)
    options |= rest
    if channels:
        options["channels"] = channels
    if background != BACKGROUND:
        options["background"] = background
    taken = inspect.signature(function).parameters
    if "use_labels" in taken:
        options["use_labels"] = use_labels
    path = os.path.expanduser(path) if path else None
    given = {"path": path, "split": split, "size": size or None, **options}
    arguments.check(function, given, what=f"data {name!r}", prefix="data.")
    images = function(**given)
    if not use_labels:
        zeros = np.zeros(images.num, np.int32)
        images = images._replace(labels=zeros, num_classes=0)
    return images


def sources() -> list[str]:
    """The sources that exist: modules of this package with `load(**keywords)`.

    Examples:
        >>> from kdiff_jax.data import images
        >>> {"folder", "npz", "tfds"} <= set(images.sources())
        True
    """
    return [name for name in registry.names(PACKAGE, "load") if name != "images"]


def source(name: str) -> tuple[Callable[..., Images], dict[str, str]]:
    """The function that reads a set of this name, and what the name itself tells it.

    Raises:
        ConfigError: If no such source exists.
    """
    source, _, rest = name.partition(":")
    if name in TFDS_NAMES:
        source, rest = "tfds", name
    known = sources()
    if source not in known or (source == "tfds") != bool(rest):
        known = [*sorted({*known} - {"tfds"}), *TFDS_NAMES, "tfds:NAME"]
        raise registry.unknown("data.name", name, known)
    module = registry.module(PACKAGE, source, what="data.name", defines="load")
    return module.load, {"dataset": rest} if rest else {}


def from_array(
    array: UInt8[np.ndarray, "N H W C"],
    labels: Integer[np.ndarray, " N"] | None,
    *,
    num_classes: int,
    name: str,
) -> Images:
    """A set that lies in the memory of the host.

    Args:
        array: uint8[N, H, W, C], bytes of 0 to 255.
        labels: int[N], 0 to num_classes - 1; None for a set without.
        num_classes: Number of classes; not read without labels.
        name: Name for messages and reports.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.data import images
        >>> bytes_of_images = np.zeros((4, 8, 8, 3), np.uint8)
        >>> mine = images.from_array(bytes_of_images, None, num_classes=0, name="mine")
        >>> mine.num, mine.num_classes
        (4, 0)
    """
    num = len(array)
    if labels is None:
        labels, num_classes = np.zeros(num, np.int32), 0
    return Images(
        read=lambda indices: array[indices],
        labels=np.asarray(labels, np.int32),
        num=num,
        shape=array.shape[1:],
        num_classes=num_classes,
        in_memory=array if array.nbytes <= MAX_IN_MEMORY else None,
        name=name,
    )


def refuse(name: str, *, path: str | None, split: str) -> None:
    """For sets without files and parts: a path or another split is a mistake."""
    if path is not None:
        raise ConfigError(
            f"data.path={path!r}: {name} is built in and reads no file; leave it out"
        )
    if split != "train":
        raise ConfigError(f"data.split={split!r}: {name} has only the split 'train'")
