"""Samples of students beside the training images that are nearest to them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kdiff_jax.data.images import Images
from kdiff_jax.metrics import features, neighbours
from kdiff_jax.metrics.features import Features
from kdiff_jax.report import grid
from kdiff_jax.train import watchdog

NUM_SAMPLES, NUM_NEAREST = 10, 3
NUM_TYPICAL = 20  # training images that say how near neighbours are among themselves
BLOCK = 1000  # images looked at together
NAME = "neighbours"  # the column of a row, and the picture
NAMES = "nearest training image", "2nd", "3rd"


def of_rows(f: np.ndarray, f_ref: np.ndarray, about: Features) -> dict[str, Any]:
    """What a row says of its nearest training images, by the features of its metrics.

    Args:
        f: f32[N, D], features of the shown samples.
        f_ref: f32[M, D], those of all training images.
        about: The features.
    """
    starts = range(0, len(f_ref), BLOCK)
    blocks = (f_ref[start : start + BLOCK] for start in starts)
    typical = f_ref[_typical(len(f_ref))]
    (found,) = _found([f[:NUM_SAMPLES]], typical, blocks, len(f_ref), about)
    return found


def by_pixels(samples: Sequence[np.ndarray], data: Images) -> list[dict[str, Any]]:
    """What rows say of their nearest training images, by pixels; one pass for all.

    Args:
        samples: uint8[N, H, W, C] of each model.
        data: The training images.
    """
    pixels = features.make("pixels")
    each = [pixels.apply(images[:NUM_SAMPLES]) for images in samples]
    typical = pixels.apply(data.read(_typical(data.num)))
    return _found(each, typical, _blocks(data, pixels), data.num, pixels)


def _blocks(data: Images, pixels: Features) -> Iterator[np.ndarray]:
    for start in range(0, data.num, BLOCK):
        watchdog.beat()
        places = np.arange(start, min(start + BLOCK, data.num))
        yield pixels.apply(data.read(places))


def _typical(num: int) -> np.ndarray:
    """i64[n], of training images all over the set."""
    return np.unique(np.linspace(0, num - 1, NUM_TYPICAL).astype(np.int64))


def _found(
    each: Sequence[np.ndarray],
    typical: np.ndarray,
    blocks: Iterable[np.ndarray],
    num: int,
    about: Features,
) -> list[dict[str, Any]]:
    queries = np.concatenate([*each, typical])
    own = np.full(len(queries), -1)
    own[-len(typical) :] = _typical(num)
    found = neighbours.nearest(queries, blocks, NUM_NEAREST, own=own)
    first = found.distances[-len(typical) :, :1]
    facts = {
        "features": about.provenance,
        "num_images": num,
        # Of training images, to their nearest other: what is new is no nearer.
        "typical": float(np.median(first)) if first.size else None,
    }
    ends = np.cumsum([len(one) for one in each])[:-1]
    parts = (np.split(x[: -len(typical)], ends) for x in found)
    return [
        {**facts, "places": places.tolist(), "distances": distances.tolist()}
        for places, distances in zip(*parts, strict=True)
    ]


def picture(
    shown: Sequence[tuple[str, np.ndarray, dict[str, Any]]], data: Images
) -> np.ndarray:
    """Samples of each model, and below each its nearest training images.

    Args:
        shown: (title, uint8[N, H, W, C], what its row says of them) of each model.
        data: The training images.
    """
    parts, captions = [], []
    for title, images, about in shown:
        places = np.array(about["places"])
        parts.append((title, images[: len(places)]))
        captions.append(None)
        for i, column in enumerate(places.T):
            parts.append((NAMES[i], data.read(column)))
            captions.append([f"{row[i]:.3g}" for row in about["distances"]])
    return grid.side_by_side(parts, captions=captions)
