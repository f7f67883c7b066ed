"""Images and captions to a cache of latents and tokens, shard by shard, resumable.

A shard is written whole or not at all, and depends on its own images alone: a run that
was killed makes what is missing, the same bytes. Hosts take shards in turn, and split
each batch over their own devices.
"""

import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdiff_jax.data import identity, latents
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ConfigError
from kdiff_jax.formats.clip_tokenizer import Tokenizer
from kdiff_jax.latent import Autoencoder
from kdiff_jax.report.progress import duration
from kdiff_jax.stages import encoding
from kdiff_jax.train import hosts, parallel, watchdog

log = logging.getLogger(__name__)


class Content(NamedTuple):
    """What is to be cached.

    Attributes:
        images: The images, of the size that is encoded; None for prompts alone.
        captions: For each image its captions; for prompts alone each has one of its
            own. None of images with labels.
        sha256: Digest of names and captions; "" without captions.
    """

    images: Images | None
    captions: tuple[tuple[str, ...], ...] | None
    sha256: str = ""

    @property
    def num_examples(self) -> int:
        """Number of captions, or of images without."""
        if self.captions is None:
            return 0 if self.images is None else self.images.num
        return sum(map(len, self.captions))


def facts(
    content: Content,
    vae: Autoencoder | None,
    tokenizers: Mapping[str, Tokenizer],
    *,
    shard_size: int,
    flip: bool = False,
) -> dict[str, Any]:
    """The manifest of a cache, see `data.latents.begin`.

    Args:
        content: What is to be cached.
        vae: The autoencoder; None for prompts alone.
        tokenizers: Tokenizers by the name of what they make, "ids".
        shard_size: Number of images of a shard.
        flip: Whether the mirrored images are encoded, too.

    Raises:
        ConfigError: If a tokenizer has more tokens than uint16 can tell apart, or there
            are no images to flip.
    """
    if flip and content.images is None:
        raise ConfigError("--flip: prompts have no images to flip; leave it out")
    for name, tokenizer in tokenizers.items():
        if tokenizer.vocab_size > latents.MAX_VOCAB:
            raise ConfigError(
                f"{name}: a tokenizer of {tokenizer.vocab_size} tokens; a cache holds"
                f" those of up to {latents.MAX_VOCAB}"
            )
    found: dict[str, Any] = dict(
        num_images=0,
        num_examples=content.num_examples,
        shard_size=shard_size,
        shape=[],
        tokens={name: t.length for name, t in tokenizers.items()},
        tokenizers={name: t.sha256 for name, t in tokenizers.items()},
        captions=content.sha256,
    )
    if content.images is not None:
        assert vae is not None, "images are encoded by an autoencoder"
        images = content.images
        height, width, _ = images.shape
        factor, channels = vae.module.factor, vae.module.latent_channels
        found |= dict(
            num_images=images.num,
            shape=[height // factor, width // factor, 2 * channels],
            images=identity.of(images),
            image_size=[height, width],
            prepared=dict(images.prepared),
            vae=vae.sha256,
            scaling_factor=vae.scaling_factor,
            shift_factor=vae.shift_factor,
            precision=vae.module.dtype,
        )
    # What a cache without it does not say.
    return found | (dict(flip=True) if flip else {})


def text_bytes(content: Content) -> int:
    """Bytes of all captions on disk."""
    return sum(latents.packed(texts).size for texts in content.captions or ())


def make(
    folder: pathlib.Path,
    facts: Mapping[str, Any],
    content: Content,
    vae: Autoencoder | None,
    tokenizers: Mapping[str, Tokenizer],
    *,
    batch_size: int,
    skip: bool = False,
) -> int:
    """Makes every shard that is missing or damaged, and finishes the cache.

    Args:
        folder: Folder of the cache.
        facts: Its manifest.
        content: What is to be cached.
        vae: The autoencoder; None for prompts alone.
        tokenizers: Tokenizers by the name of what they make, "ids".
        batch_size: Images that a device encodes at once. Another one may round
            otherwise, so that it, and not that of all devices, is what is given.
        skip: Leave out images that cannot be read, and report them; otherwise the
            shards that were made without such are made again.

    Returns:
        Number of shards that were made.

    Raises:
        DataError: If the folder holds another cache, or an image cannot be read (an
            `ImageError`), or none.
        NumericsError: If the autoencoder gives NaN or infinity.
        StorageError: If the disk does not take a shard; finished ones are kept.
    """
    hosts.on_first(lambda: latents.begin(folder, facts))
    num = latents.num_shards(facts)
    mine = range(jax.process_index(), num, jax.process_count())
    todo = latents.missing(folder, mine)
    if not skip:
        todo = sorted({*todo, *(k for k in mine if latents.left_out(folder, k))})
    if done := len(mine) - len(todo):
        log.info("%s: %d of %d shards are there and whole", folder, done, len(mine))
    flip = bool(facts.get("flip"))
    encode = None if vae is None else encoding.encoder(vae, batch_size, flip=flip)
    began = time.monotonic()
    for i, k in enumerate(todo):
        lost: dict[int, str] | None = {} if skip else None
        arrays = _shard(facts, content, tokenizers, encode, k, lost)
        latents.write_shard(folder, k, arrays, _about(content, lost or {}))
        watchdog.beat()
        left = (time.monotonic() - began) / (i + 1) * (len(todo) - i - 1)
        log.info("%s: shard %d of %d, %s left", folder, k + 1, num, duration(left))
    parallel.wait_for_all("cache")
    hosts.on_first(lambda: latents.finish(folder))
    return len(todo)


def _about(content: Content, lost: Mapping[int, str]) -> list[dict[str, Any]]:
    """The report of images that could not be read."""
    found = []
    for number, why in sorted(lost.items()):
        name = str(number)
        if content.images is not None and content.images.encoded is not None:
            name, _ = content.images.encoded(number)
        _, _, reason = why.rpartition(f"{name}: ")
        examples = 1 if content.captions is None else len(content.captions[number])
        found.append(dict(image=number, name=name, reason=reason, examples=examples))
    return found


def _shard(
    facts,
    content: Content,
    tokenizers,
    encode,
    number: int,
    lost: dict[int, str] | None,
):
    """The arrays of one shard, by name; `lost` gets what is left out, if it may be."""
    size = facts["shard_size"]
    total = facts["num_images"] or facts["num_examples"]
    images = range(number * size, min((number + 1) * size, total))
    found: dict[str, np.ndarray] = {}
    kept = list(images)
    if encode is not None:
        found = encode(content.images, images, lost)
        kept = [i for i in images if i not in (lost or {})]
        rows = np.array(kept, np.int64) - images.start
        found = {name: moments[rows] for name, moments in found.items()}
    if content.captions is None:
        assert content.images is not None, "nothing to cache"
        found[latents.LABELS] = content.images.labels[kept]
        found[latents.IMAGE] = np.arange(len(kept), dtype=np.int32)
        return found
    texts = [content.captions[i] for i in kept]
    counts = [len(of_image) for of_image in texts]
    flat = [text for of_image in texts for text in of_image]
    for name, tokenizer in tokenizers.items():
        ids = tokenizer(flat) if flat else np.zeros((0, tokenizer.length))
        found[name] = ids.astype(np.uint16)
    found[latents.IMAGE] = np.repeat(np.arange(len(texts), dtype=np.int32), counts)
    found[latents.CAPTIONS] = latents.packed(flat)
    return found
