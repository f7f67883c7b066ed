"""Images and captions as a denoiser on latents reads them, made once and kept on disk.

    FOLDER/latents.json                the manifest: what made them, see `begin`
    FOLDER/shard-00007/moments.npy     float16[n, h, w, 2D], mean and log-variance of
                                       the latents, not scaled
    FOLDER/shard-00007/flipped.npy     the same of the mirrored images, if asked for
    FOLDER/shard-00007/ids.npy         uint16[m, L], tokens of the captions
    FOLDER/shard-00007/image.npy       int32[m], which of the n images a caption is of
    FOLDER/shard-00007/y.npy           int32[m], labels, of images without captions
    FOLDER/shard-00007/captions.npy    uint8, the captions in UTF-8, one a line
    FOLDER/shard-00007/checksums.json  see `shards`; with the images that were left out
    FOLDER/unreadable.json             those of all shards, if there are any

An image may have several captions; an example is a caption with its image. A cache of
prompts has no moments. Flips are made before images are encoded: a flipped latent is
not the latent of the flipped image.
"""

import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdiff_jax import sealed, shards
from kdiff_jax.errors import DataError, StorageError
from kdiff_jax.files import json_text

MANIFEST, REPORT = "latents.json", "unreadable.json"
MOMENTS, IMAGE, LABELS, CAPTIONS = "moments", "image", "y", "captions"
FLIPPED = "flipped"  # moments of mirrored images
LEFT_OUT = "left_out"  # images of a shard, or of a cache, that could not be read
FINISHED = ("shards", LEFT_OUT)  # what `finish` adds to the manifest
MAX_VOCAB = 2**16  # tokens that uint16 can tell apart
WAY_OUT = "run the command that makes the cache again, it keeps the shards"

Folder = str | os.PathLike

log = logging.getLogger(__name__)


class Latents(NamedTuple):
    """A finished cache; a source of batches like `Images`.

    Attributes:
        read: (int64[n] examples) -> {name: array} of `batch`; maps the files into
            memory, and is safe to call from threads.
        labels: int32[num], the number of the caption, which is that of the example; of
            images without captions their labels.
        num: Number of examples.
        shape: (h, w, 2D) of the moments; () of prompts alone.
        tokens: {name: uint16[num, L]}, tokens of all captions by tokenizer, "ids" and
            for SDXL "ids_2"; {} without captions.
        facts: The manifest.
        name: Name for messages and reports.
        num_views: 2 with the latents of flipped images, whose examples are num + i.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.data import latents
        >>> cache = latents.open_latents(LATENTS)
        >>> batch = cache.batch(np.array([0, 2]))
        >>> sorted(batch), batch["moments"].shape[1:] == cache.shape
        (['ids', 'moments', 'y'], True)
    """

    read: Callable[[Any], dict[str, np.ndarray]]
    labels: np.ndarray
    num: int
    shape: tuple[int, ...]
    tokens: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    name: str
    num_views: int = 1

    def batch(self, indices) -> dict[str, np.ndarray]:
        """The entries of a batch.

        Args:
            indices: int64[n], numbers of examples, and of their views.

        Returns:
            moments float16[n, h, w, 2D], ids (and ids_2) uint16[n, L], y int32[n].
        """
        return self.read(indices)


def disk_need(facts: Mapping[str, Any], text_bytes: int = 0) -> int:
    """Bytes of a cache.

    Args:
        facts: Its manifest; 2 bytes for each number of moments and tokens.
        text_bytes: Bytes of the captions.
    """
    views = len(_moments(facts))
    moments = 2 * views * int(np.prod(facts["shape"]))
    row = 4 + sum(2 * length for length in facts["tokens"].values())
    return facts["num_images"] * moments + facts["num_examples"] * row + text_bytes


def begin(folder: Folder, facts: Mapping[str, Any]) -> None:
    """Writes the manifest, or checks that the cache there is made so.

    A manifest that is damaged is written anew: each shard knows whose it is.

    Args:
        folder: Folder to write to; made if need be.
        facts: What the cache depends on, as JSON: num_images, num_examples, shard_size,
            shape and tokens (length by name), which readers need; digests of the
            autoencoder, the tokenizers and the data, factors, image size, and the crop
            and resize rule.

    Raises:
        DataError: If another cache is in the folder.
    """
    file = pathlib.Path(folder) / MANIFEST
    wanted = json.loads(json_text(dict(facts)))
    try:
        found = _manifest(file)
    except DataError as error:
        if file.exists():
            log.error("%s", error)
        sealed.write_json(file, wanted)
        return
    for key in FINISHED:
        found.pop(key, None)
    for key in sorted({*wanted, *found}):
        was, now = found.get(key), wanted.get(key)
        if was != now:
            raise DataError(
                f"{file}: this cache was made with {key}={_short(was)}, now it is"
                f" {_short(now)}; delete {folder} or name another --output"
            )


def missing(folder: Folder, numbers: Iterable[int] | None = None) -> list[int]:
    """The shards that are not there, or damaged: every byte is read and summed.

    Args:
        folder: Folder with a manifest.
        numbers: Numbers of the shards to check, so that hosts can share the work; None
            for all.

    Raises:
        DataError: If the manifest is missing or damaged.
    """
    facts = _manifest(pathlib.Path(folder) / MANIFEST)
    every = [_of_shard(facts, k) for k in range(num_shards(facts))]
    return shards.missing(folder, _names(facts), every, numbers)


def num_shards(facts: Mapping[str, Any]) -> int:
    """Number of shards; prompts alone are counted in place of images."""
    num = facts["num_images"] or facts["num_examples"]
    return -(-num // facts["shard_size"])


def write_shard(
    folder: Folder,
    number: int,
    arrays: Mapping[str, np.ndarray],
    left_out: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes one shard, or writes it anew. Killed at any time, it leaves none or all.

    Args:
        folder: Folder with a manifest.
        number: Number of the shard.
        arrays: Its arrays by name.
        left_out: Its images that are not among them, as plain values: number of the
            `image`, `name`, `reason`, and number of `examples`.

    Raises:
        StorageError: If the disk does not take it.
    """
    facts = _manifest(pathlib.Path(folder) / MANIFEST)
    arrays = {name: arrays[name] for name in _names(facts)}
    about = _of_shard(facts, number)
    if left_out:
        about[LEFT_OUT] = [dict(image) for image in left_out]
    try:
        shards.write(folder, number, arrays, about)
    except OSError as error:
        raise StorageError(
            f"{shards.path(folder, number)}: cannot be written ({error.strerror}); make"
            " room and run the same command again, finished shards are kept"
        ) from error


def finish(folder: Folder) -> None:
    """Notes the digest of every shard in the manifest: the cache is whole.

    What was left out of the shards is reported in a file beside it.

    Raises:
        DataError: If all images were.
    """
    file = pathlib.Path(folder) / MANIFEST
    facts, numbers = _manifest(file), range(num_shards(_manifest(file)))
    finished: dict[str, Any] = {"shards": [_digest(folder, k) for k in numbers]}
    lost = [image for k in numbers for image in left_out(folder, k)]
    report = pathlib.Path(folder) / REPORT
    if not lost:
        report.unlink(missing_ok=True)  # of images that were mended since
    else:
        sealed.write_json(report, {LEFT_OUT: lost})
        examples = sum(image["examples"] for image in lost)
        finished[LEFT_OUT] = dict(images=len(lost), examples=examples)
        if len(lost) == facts["num_images"]:
            raise DataError(f"{report}: none of the images can be read; mend them")
    sealed.write_json(file, {**facts, **finished})


def num_left_out(folder: Folder) -> int:
    """Number of images that a finished cache has not, as they could not be read."""
    facts = _manifest(pathlib.Path(folder) / MANIFEST)
    return facts.get(LEFT_OUT, {}).get("images", 0)


def left_out(folder: Folder, number: int) -> list[dict[str, Any]]:
    """The images of a shard that could not be read, see `write_shard`."""
    return _sums(folder, number).get(LEFT_OUT, [])


def verify(folder: Folder) -> None:
    """Reads and sums every byte of a finished cache.

    Args:
        folder: Folder of the cache.

    Raises:
        DataError: If a shard is missing or damaged.

    Examples:
        >>> from kdiff_jax.data import latents
        >>> latents.verify(LATENTS)
    """
    if bad := missing(folder):
        numbers = ", ".join(map(str, bad[:10]))
        raise DataError(f"{folder}: missing or damaged shards: {numbers}; {WAY_OUT}")


def open_latents(folder: Folder, *, vae: str | None = None) -> Latents:
    """A finished cache, mapped into memory, not read.

    Args:
        folder: Folder of the cache.
        vae: Digest of the autoencoder that decodes (`latent.Autoencoder.sha256`), which
            must be the one that encoded; None asks for none.

    Raises:
        DataError: If it is not finished, of another autoencoder, or a shard is missing
            or obviously not whole; for the rest see `verify`.

    Examples:
        >>> from kdiff_jax.data import latents
        >>> cache = latents.open_latents(LATENTS)
        >>> len(cache.labels) == cache.num, list(cache.tokens)
        (True, ['ids'])
    """
    folder = pathlib.Path(folder).expanduser()
    facts = _manifest(folder / MANIFEST)
    if vae is not None and facts.get("vae") != vae:
        raise DataError(
            f"{folder}: its latents are those of another autoencoder"
            f" ({_short(facts.get('vae'))}, not {vae[:16]}...); make a cache with this"
            " one"
        )
    digests = facts.get("shards")
    if digests is None:
        raise DataError(f"{folder}: is not finished; {WAY_OUT}")
    names, maps = _names(facts), []
    for k in range(num_shards(facts)):
        if _digest(folder, k) != digests[k]:
            raise DataError(
                f"{shards.path(folder, k)}: is of another cache, or damaged; {WAY_OUT}"
            )
        try:
            arrays = shards.open_maps(folder, k, names)
        except sealed.Damaged as damage:
            raise DataError(f"{damage}; {WAY_OUT}") from damage
        maps.append(dict(zip(names, arrays, strict=True)))
    return _latents(folder, facts, maps)


def _latents(folder, facts, maps) -> Latents:
    first = np.cumsum([0, *(len(m[IMAGE]) for m in maps)])
    rows = np.concatenate([m[IMAGE] for m in maps])
    tokens = {k: np.concatenate([m[k] for m in maps]) for k in facts["tokens"]}
    num, shape = facts["num_examples"], tuple(facts["shape"])
    num -= facts.get(LEFT_OUT, {}).get("examples", 0)
    if len(rows) != num:
        raise DataError(f"{folder}: has {len(rows)} examples, not {num}; {WAY_OUT}")
    labels, views = np.arange(num, dtype=np.int32), _moments(facts)
    if not tokens:
        labels = np.concatenate([m[LABELS] for m in maps])

    def read(indices):
        flipped, indices = np.divmod(np.asarray(indices), num)
        found = {name: array[indices] for name, array in tokens.items()}
        found["y"] = labels[indices]
        if shape:
            moments = np.empty((len(indices), *shape), np.float16)
            numbers = np.searchsorted(first, indices, side="right") - 1
            for k, view in {*zip(numbers.tolist(), flipped.tolist(), strict=True)}:
                here = (numbers == k) & (flipped == view)
                moments[here] = maps[k][views[view]][rows[indices[here]]]
            found[MOMENTS] = moments
        return found

    name, num_views = f"latents {folder}", max(len(views), 1)
    return Latents(read, labels, num, shape, tokens, facts, name, num_views)


def texts(folder: Folder, number: int) -> list[str]:
    """The captions of one shard."""
    (found,) = shards.open_maps(folder, number, [CAPTIONS])
    return found.tobytes().decode().split("\n")[:-1]


def packed(captions: Iterable[str]) -> np.ndarray:
    """uint8, captions as `texts` reads them; white space in them becomes one space."""
    lines = "".join(" ".join(text.split()) + "\n" for text in captions)
    return np.frombuffer(lines.encode(), np.uint8)


def _names(facts) -> tuple[str, ...]:
    """Names of the arrays of a shard."""
    texts = (*facts["tokens"], CAPTIONS) if facts["tokens"] else (LABELS,)
    return (*_moments(facts), *texts, IMAGE)


def _moments(facts) -> tuple[str, ...]:
    """Names of those arrays of a shard that hold moments."""
    if not facts["shape"]:
        return ()
    return (MOMENTS, FLIPPED) if facts.get("flip") else (MOMENTS,)


def _of_shard(facts, number: int) -> dict[str, Any]:
    """What a shard says of itself: which it is, and made by what."""
    own = {k: v for k, v in facts.items() if k not in FINISHED}
    return {"number": number, "made_by": sealed.seal(own)[sealed.KEY]}


def _digest(folder: Folder, number: int) -> str | None:
    """The digest of a shard's sums, which are those of its bytes; None of no shard."""
    sums = _sums(folder, number)
    return sealed.seal(sums)[sealed.KEY] if sums else None


def _sums(folder: Folder, number: int) -> dict[str, Any]:
    """What a shard says of itself; {} of no shard."""
    try:
        text = (shards.path(folder, number) / shards.CHECKSUMS).read_bytes()
        return sealed.parse(text)
    except (OSError, sealed.Damaged):
        return {}


def _manifest(file: pathlib.Path) -> dict[str, Any]:
    facts = sealed.read_json(file, error=DataError, way_out=WAY_OUT)
    counts = [facts.get(k) for k in ("num_images", "num_examples", "shard_size")]
    whole = all(type(n) is int and n >= 0 for n in counts)
    if not whole or not isinstance(facts.get("tokens"), dict) or "shape" not in facts:
        raise DataError(f"{file}: is damaged (no counts and no shape); {WAY_OUT}")
    return facts


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:16]}..."
