"""Images to features, by the name of a feature network and the file of its weights."""

import dataclasses
import functools
import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from kdiff_jax import features as networks
from kdiff_jax import registry
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.features import Extractor, WeightsFile, weights_files
from kdiff_jax.types import Params

BATCH = 256  # images of a call, but on CPUs
SPREAD = ("low", "high", "std")  # ends of names of what belongs to a figure


@dataclasses.dataclass(frozen=True)
class Features:
    """A feature network with its weights, and how images go through it.

    Attributes:
        name: Name of the network, a file of `features/`.
        extractor: What that file states.
        params: Its weights.
        preprocessing: What is done to images first, by name.
        sha256: Digest of the file of the weights; None without weights.
        batch_size: Images a call of the network; the last batch is filled up, so that
            one program serves any number. None for the extractor's `cpu_batch` on CPUs,
            which gain nothing from more, and 256 elsewhere.
        mesh: Devices that a batch is split over; None for one device of this host.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> features = metrics.make("pixels")
        >>> images = np.zeros((3, 2, 2, 1), np.uint8)
        >>> features.apply(images).shape, list(features.named(images, ["pixels"]))
        ((3, 4), ['pixels'])
    """

    name: str
    extractor: Extractor
    params: Params
    preprocessing: str
    sha256: str | None = None
    batch_size: int | None = None
    mesh: Mesh | None = None

    @property
    def main(self) -> str:
        """Name of the features that distances read."""
        return self.extractor.main

    @property
    def provenance(self) -> dict[str, str | None]:
        """What figures on these features depend on, in plain values."""
        return {
            "name": self.name,
            "preprocessing": self.preprocessing,
            "weights_sha256": self.sha256,
        }

    def apply(self, images: np.ndarray) -> Float[np.ndarray, "N _D"]:
        """The main features of images; see `named`.

        Args:
            images: uint8[N, H, W, C].
        """
        return self.named(images, [self.main])[self.main]

    def named(
        self, images: np.ndarray, wanted: Collection[str]
    ) -> dict[str, Float[np.ndarray, "N _D"]]:
        """Features by name, on every host, each image's in its place.

        Args:
            images: uint8[N, H, W, C], the same on every host; others are refused.
            wanted: Names in `extractor.dims`.

        Raises:
            ConfigError: If the images have another number of channels.
            DataError: If they are no images of bytes.
        """
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"images={images.dtype}{list(images.shape)}: features are those of"
                " bytes, uint8 [N, H, W, C] in 0 to 255; convert them"
            )
        check_shape(self, images.shape)
        if self.extractor.extract is None:
            found = self.extractor.prepare(images, self.preprocessing)
            return {name: found[name] for name in wanted}
        found = {
            name: np.empty((len(images), dim_of(self, images.shape[1:], name)), "f4")
            for name in wanted
        }
        cpu = jax.default_backend() == "cpu"
        size = self.batch_size or (self.extractor.cpu_batch if cpu else BATCH)
        if self.mesh is not None:
            size = -(-size // self.mesh.size) * self.mesh.size
        for start in range(0, len(images), size):
            part = images[start : start + size]
            fill = ((0, size - len(part)), (0, 0), (0, 0), (0, 0))
            prepared = self.extractor.prepare(np.pad(part, fill), self.preprocessing)
            values = self._program(self._params, self._placed(prepared))
            for name, rows in found.items():
                rows[start : start + len(part)] = np.asarray(values[name])[: len(part)]
        return found

    @functools.cached_property
    def _program(self):
        """(params, prepared images) -> all features, a copy on every device."""
        extract, preprocessing = self.extractor.extract, self.preprocessing
        assert extract is not None, "features of the host"

        def run(params, prepared):
            return extract(params, prepared, preprocessing)

        if self.mesh is None:
            return jax.jit(run)
        return jax.jit(run, out_shardings=NamedSharding(self.mesh, P()))

    @functools.cached_property
    def _params(self):
        if self.mesh is None:
            return self.params
        whole = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: _put(np.asarray(x), whole), self.params)

    def _placed(self, prepared):
        if self.mesh is None:
            return prepared
        return _put(prepared, NamedSharding(self.mesh, P(self.mesh.axis_names)))


def make(
    name: str,
    *,
    weights: str | os.PathLike | None = None,
    preprocessing: str | None = None,
    fetch: bool = False,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Features:
    """The features `name`, one of `names()`.

    Args:
        name: A file of `features/`: "pixels", "resnet56", ...
        weights: The network's file; see `FILE` of its module. None for a public file
            that lies at its place, see `weights_files.place`.
        preprocessing: One of `Extractor.preprocessings`; None for the first.
        fetch: Download the public file to its place if it is not there.
        batch_size: Images a call of the network; None chooses, see `Features`.
        mesh: Devices that a batch is split over; None for one device of this host.

    Raises:
        ConfigError: If there are no such features, or weights are too much.
        CheckpointError: If the weights are missing, or cannot be read, or are of
            another network.

    Examples:
        >>> from kdiff_jax import metrics
        >>> metrics.make("pixels").provenance
        {'name': 'pixels', 'preprocessing': 'default', 'weights_sha256': None}
    """
    network = networks.network(name)
    extractor: Extractor = network.EXTRACTOR
    file: WeightsFile | None = network.FILE
    if preprocessing is None:
        preprocessing = extractor.preprocessings[0]
    if preprocessing not in extractor.preprocessings:
        raise registry.unknown("preprocessing", preprocessing, extractor.preprocessings)
    about: dict[str, Any] = dict(batch_size=batch_size, mesh=mesh)
    if file is None:
        if weights is not None:
            raise ConfigError(f"weights={weights}: {name} need none; leave it out")
        return Features(name, extractor, {}, preprocessing, **about)
    path = weights_files.find(file, weights, fetch=fetch, network=name)
    params = network.load(path)
    sha256 = weights_files.digest(path, file)
    return Features(name, extractor, params, preprocessing, sha256, **about)


def missing(
    name: str, weights: str | os.PathLike | None = None, *, fetch: bool = False
) -> str | None:
    """What to say if the public file of these features is not there; else None.

    For the arguments see `make`, which would refuse them.
    """
    file: WeightsFile | None = networks.network(name).FILE
    if file is None:
        return None
    return weights_files.missing(file, weights, fetch=fetch, network=name)


def names() -> tuple[str, ...]:
    """The features that `make` knows."""
    return tuple(networks.names())


def figure_name(features: Features | str, figure: str) -> str:
    """The key under which a figure on these features is reported.

    The network's established name, such as "fid", or the figure's with the network's
    behind it: "fd_pixels". What tells a figure's spread comes last: "kd_pixels_std".
    """
    name = features if isinstance(features, str) else features.name
    established: Mapping[str, str] = networks.network(name).EXTRACTOR.figures
    stem, _, end = figure.rpartition("_")
    if end not in SPREAD:
        stem, end = figure, ""
    return "_".join(filter(None, [established.get(stem, f"{stem}_{name}"), end]))


def dim_of(
    features: Features, image_shape: tuple[int, ...], feature: str | None = None
) -> int:
    """How many features an image of this shape has; the main ones by default."""
    dim = features.extractor.dims[feature or features.main]
    return dim or math.prod(image_shape)


def check_shape(features: Features, image_shape: tuple[int, ...]) -> None:
    """Raises ConfigError if the features are none of such images."""
    channels = features.extractor.channels
    if channels not in (None, image_shape[-1]):
        raise ConfigError(
            f"features={features.name}: reads images of {channels} channels,"
            f" and these have {image_shape[-1]}; set features to pixels"
        )


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every host has, on the devices of all."""
    return jax.make_array_from_callback(x.shape, sharding, lambda place: x[place])
