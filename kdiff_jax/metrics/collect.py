"""Looks at a stream of images and keeps what metrics read of them."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from kdiff_jax import memory
from kdiff_jax.metrics.checks import check_features
from kdiff_jax.metrics.features import Features, dim_of
from kdiff_jax.metrics.moments import Moments
from kdiff_jax.metrics.seen import Seen, gaussian, of_rows


class Looks(NamedTuple):
    """What is done with images before their features are taken, and beside.

    Attributes:
        prepare: (uint8[B, H, W, C]) -> the images that are looked at; None for these.
        shape: (h, w, C) of those; None for that of the images.
        similarities: (places, the images that are looked at) -> f32[B], cosines to what
            those images were to show; None of images without prompts.
        classes: i32[N], the classifier's class that each image is to show; None where
            no metric asks.
    """

    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    shape: tuple[int, ...] | None = None
    similarities: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    classes: np.ndarray | None = None


AS_THEY_ARE = Looks()


class Collector:
    """Collects features of images that come in batches, in any order.

    Moments are added in float64 on the host. Features are kept in their places where a
    metric reads them, so that the order of the batches changes nothing.

    Args:
        features: The features.
        needs: What metrics read: "moments", "rows", "logits", "spatial",
            "similarities", "classes".
        num: Number of images.
        image_shape: (H, W, C).
        labels: i32[num], kept for groups.
        looks: What is done with images first, and beside.
    """

    def __init__(
        self,
        features: Features,
        needs: Collection[str],
        num: int,
        image_shape: tuple[int, ...],
        labels: np.ndarray | None = None,
        looks: Looks = AS_THEY_ARE,
    ) -> None:
        extractor, self._looks = features.extractor, looks
        image_shape = looks.shape or image_shape
        self._similar = np.empty(num, "f4") if "similarities" in needs else None
        self._features, self._labels = features, labels
        self._rows, self._streams = {}, {}
        for need, name in (("rows", extractor.main), ("logits", extractor.logits)):
            if need in needs and name is not None:
                dim = dim_of(features, image_shape, name)
                check_rows(f"num_images={num}", num, dim)
                self._rows[name] = np.empty((num, dim), np.float32)
        for need, name in (("moments", extractor.main), ("spatial", extractor.spatial)):
            if need in needs and name is not None and name not in self._rows:
                self._streams[name] = Moments()

    def add(self, places: Integer[np.ndarray, " _B"], images: np.ndarray) -> None:
        """Looks at the images, uint8[B, H, W, C], at these places.

        Raises:
            NumericsError: If a feature is not finite.
        """
        if self._looks.prepare is not None:
            images = self._looks.prepare(images)
        if self._similar is not None:
            assert self._looks.similarities is not None, "no prompts"
            self._similar[places] = self._looks.similarities(places, images)
        wanted = {*self._rows, *self._streams}
        found = self._features.named(images, wanted) if wanted else {}
        for name, rows in found.items():
            if name in self._rows:
                check_features("features", rows, min_rows=0)
                self._rows[name][places] = rows
            if name in self._streams:
                self._streams[name] = self._streams[name].update(rows)

    def seen(self) -> Seen:
        """What all images came to."""
        extractor = self._features.extractor

        def moments(name):
            if name in self._streams:
                return gaussian(self._streams[name])
            return of_rows(self._rows[name]) if name in self._rows else None

        main, spatial = extractor.main, extractor.spatial
        rows, logits = self._rows.get(main), self._rows.get(extractor.logits)
        apart = moments(spatial) if spatial in self._streams else None
        told = self._labels, self._similar, self._looks.classes
        return Seen(moments(main), rows, logits, apart, *told)


def check_rows(argument: str, num: int, dim: int) -> None:
    """Raises ConfigError if the features of so many images fit in no memory."""
    way_out = f"the metrics keep {dim} features of each image; make fewer images"
    memory.check(argument, 3 * 4 * num * dim, way_out)
