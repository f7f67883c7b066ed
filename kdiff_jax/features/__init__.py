"""Frozen networks of other projects whose features are compared, one file each.

The name of a file is the name of its network. It states, as far as it applies:

==============  ======================================================================
``FILE``        the public file of the weights, `WeightsFile`; None if there are none
``load``        (path) -> parameters
``EXTRACTOR``   what metrics read, `Extractor`
``features``    (params, images in [-1, 1], dtype) -> maps, what a discriminator reads
``shapes``      () -> shapes of the parameters, without the file
``PYRAMID``     channels that a projection gives maps of one size, finest first
``BACKBONE``    what LPIPS compares, `Backbone`
==============  ======================================================================

Files that state none of these are parts that several networks share.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from kdiff_jax import registry

CLASSIFIER, MEASURING, COMPARED = "features", "EXTRACTOR", "BACKBONE"


class WeightsFile(NamedTuple):
    """The public file of a network's weights.

    Attributes:
        name: Name of the file, or what it is the file of.
        source: Where it is from.
        size: Length in bytes.
        sha256: Digest in hexadecimal digits.
        url: Where it can be fetched.
        terms: Its license.
        also: Digests of further public files of the same weights.
    """

    name: str
    source: str = ""
    size: int | None = None
    sha256: str | None = None
    url: str | None = None
    terms: str = ""
    also: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """The file and where to find it, for messages."""
        return self.described()

    def described(self, *more: str) -> str:
        """The file with what is known of it, and with further facts."""
        facts = (
            f"{self.size:,} bytes" if self.size else "",
            f"sha256 {self.sha256}" if self.sha256 else "",
            self.source,
            self.terms,
            *more,
        )
        about = ", ".join(fact for fact in facts if fact)
        return f"{self.name} ({about})" if about else self.name


def as_they_are(
    images: UInt8[np.ndarray, "N H W C"], preprocessing: str
) -> UInt8[np.ndarray, "N H W C"]:
    """Images that need nothing done on the host."""
    del preprocessing
    return images


class Extractor(NamedTuple):
    """What metrics read of a network.

    Attributes:
        dims: Features by name, and how many of them an image has; None for as many as
            it has numbers.
        main: The features that distances read.
        extract: (params, prepared[B, ...], preprocessing) -> {name: f32[B, D]}, all of
            `dims`. It is called inside of compiled programs, and the features of an
            image depend on no other. None if `prepare` gives the features themselves.
        prepare: (uint8[N, H, W, C], preprocessing) -> what `extract` gets, on the host.
        preprocessings: Names of what may be done to images first; the default is first.
        logits: The features that are logits of classes.
        spatial: The features that keep places in the image.
        channels: Number of channels of the images; None for any.
        figures: Established names of figures on these features, such as "fid" for "fd".
        classes: Names of the classes of `logits`, in their order.
        cpu_batch: Images of a call on CPUs, whose caches and allocator bound it where
            images are large.
    """

    dims: Mapping[str, int | None]
    main: str
    extract: Callable[..., Any] | None = None
    prepare: Callable[..., Any] = as_they_are
    preprocessings: tuple[str, ...] = ("default",)
    logits: str | None = None
    spatial: str | None = None
    channels: int | None = 3
    figures: Mapping[str, str] = {}
    classes: tuple[str, ...] = ()
    cpu_batch: int = 32


class Backbone(NamedTuple):
    """A network under LPIPS.

    Attributes:
        module: Flax module, images -> maps; its `dtype` is that of the products.
        channels: Number of channels of each map.
        network: Name of the network in messages.
        wanted: File of the weights, for messages.
        ignored: Starts of the names in it that the maps do not need.
    """

    module: Any
    channels: tuple[int, ...]
    network: str
    wanted: str
    ignored: tuple[str, ...]


def names(defines: str = MEASURING) -> list[str]:
    """The networks whose files state this.

    Args:
        defines: `MEASURING`, what metrics read; `CLASSIFIER`, what discriminators read;
            or `COMPARED`, what is under LPIPS.
    """
    return registry.names(__name__, defines)


def network(name: str, defines: str = MEASURING) -> ModuleType:
    """The file of a network of `names(defines)`.

    Raises:
        ConfigError: If there is none.
    """
    return registry.module(__name__, name, what="features", defines=defines)
