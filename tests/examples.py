"""What the examples of docstrings read, as the site says: folders by their names."""

import pathlib

import clip_files
import numpy as np
import pipeline_files
import tfds_files

from kdiff_jax.data import latents, pairs


def pipeline(path: pathlib.Path):
    """A tiny Stable Diffusion."""
    pipeline_files.folder(path, "sd1")


def sets(path: pathlib.Path):
    """A tiny MNIST, as tensorflow-datasets keeps it."""
    digits = np.zeros((6, 28, 28), np.uint8)
    tfds_files.prepare(path, "mnist", digits, [3, 1, 4, 1, 5, 9])


def cache(path: pathlib.Path):
    """Latents of two images, with a caption and with two."""
    facts = dict(num_images=2, num_examples=3, shard_size=2, shape=[1, 1, 2])
    latents.begin(path, {**facts, "tokens": {"ids": 2}})
    arrays = dict(
        moments=np.zeros((2, 1, 1, 2), np.float16),
        ids=np.zeros((3, 2), np.uint16),
        image=np.int32([0, 1, 1]),
        captions=latents.packed(["one", "two", "two again"]),
    )
    latents.write_shard(path, 0, arrays)
    latents.finish(path)


def three_pairs(path: pathlib.Path):
    pairs.begin(path, dict(num_pairs=3, shard_size=3, shape=[1, 1, 2]))
    z, y = np.zeros((3, 1, 1, 2), np.float16), np.arange(3, dtype=np.int32)
    pairs.write_shard(path, 0, z, z.astype(np.uint8), y)


FOLDERS = {
    "FOLDER": pipeline,
    "CLIP": clip_files.folder,
    "TFDS": sets,
    "LATENTS": cache,
    "PAIRS": three_pairs,
}
