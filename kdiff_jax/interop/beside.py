"""What a model reads beside its parameters, as files beside its spec.

The spec has the digests. They are arrays and nothing else: reading them runs no code.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdiff_jax import domain
from kdiff_jax.encoders import latents, texts
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.formats import clip_tokenizer, lazy, tensors
from kdiff_jax.interop import built, conditions, trees
from kdiff_jax.interop.spec import Spec
from kdiff_jax.types import Params

AUTOENCODER, TEXT = "autoencoder.safetensors", "text_encoder.safetensors"


class Network(NamedTuple):
    """A frozen network that a model has a copy of.

    Attributes:
        role: Its role among the frozen arrays.
        file: Its file.
        digest: Field of the spec that has the digest of the file.
        named: Field of the spec that says what it is.
        shapes: What that says -> shapes of its parameters.
    """

    role: str
    file: str
    digest: str
    named: str
    shapes: Callable[..., Mapping[str, Any]]


NETWORKS = (
    Network(
        latents.ROLE, AUTOENCODER, "autoencoder_sha256", "autoencoder", latents.shapes
    ),
    Network(texts.ROLE, TEXT, "text_sha256", "text", texts.shapes),
)


ROLES = tuple(network.role for network in NETWORKS)


def write(folder: pathlib.Path, spec: Spec, frozen: domain.Frozen) -> Spec:
    """Writes table and networks that there are; returns the spec with their digests."""
    spec = conditions.write(folder, spec, frozen)
    for network in NETWORKS:
        known, path = getattr(spec, network.digest), folder / network.file
        if network.role not in frozen:
            known = None
        elif known is None or not path.is_file() or _sha256(path) != known:
            leaves = trees.flatten(frozen[network.role])
            arrays = {k: lazy.of(np.asarray(v)) for k, v in leaves.items()}
            known = tensors.write(path, arrays)
        spec = spec.replace(**{network.digest: known})
    return spec


def read(folder: pathlib.Path, spec: Spec) -> dict[str, Any]:
    """The frozen arrays of a model, by role.

    Raises:
        CheckpointError: If a file is missing, or another than the spec's.
    """
    frozen = conditions.read(folder, spec)
    for network in NETWORKS:
        named, digest = getattr(spec, network.named), getattr(spec, network.digest)
        if named is not None and digest is not None:
            shapes = network.shapes(named)
            frozen[network.role] = _params(folder / network.file, digest, shapes)
    return frozen


def with_tokenizer(checkpoint: pathlib.Path) -> pathlib.Path:
    """The folder that has the tokenizer: a model's, or its stage's."""
    checkpoint = checkpoint.absolute()
    stage = checkpoint.parents[1]  # of a step of its checkpoints
    places = (checkpoint, checkpoint / "model", stage / "model", stage)
    found = [p for p in places if (p / clip_tokenizer.PART).is_dir()]
    return found[0] if found else checkpoint


def prompts(
    frozen: domain.Frozen, folder: str | os.PathLike, numbers: np.ndarray
) -> list[str] | None:
    """Texts of conditions by number; None of conditions that are no prompts.

    Args:
        frozen: Arrays of a model, by role.
        folder: What has the tokenizer of its table of token ids.
        numbers: i32[N].
    """
    table = np.asarray(frozen.get(domain.TABLE, 0))
    path = pathlib.Path(folder).expanduser()
    if table.dtype != np.uint16 or not (path / clip_tokenizer.PART).is_dir():
        return None
    return clip_tokenizer.load(path).texts(table[numbers])


def ids_of(
    tokenizer: clip_tokenizer.Tokenizer, texts: Sequence[str], length: int, option: str
) -> np.ndarray:
    """uint16[N, length], token ids of prompts for a model that reads so many.

    Args:
        tokenizer: The model's tokenizer.
        texts: The prompts.
        length: Number of tokens that the model reads.
        option: Name of the option that gives the prompts, for messages.

    Raises:
        ConfigError: If a prompt has more.
    """
    ids = np.asarray(tokenizer(list(texts)))
    long = too_long(tokenizer, texts, length)
    if long.size:
        raise ConfigError(
            f"{option}={texts[long[0]]!r}: has more than the {length} tokens that this"
            " model reads; shorten it"
        )
    return ids[:, :length].astype(np.uint16)


def too_long(
    tokenizer: clip_tokenizer.Tokenizer, texts: Sequence[str], length: int
) -> np.ndarray:
    """i64[n], the prompts with more tokens than a model reads.

    At CLIP's own length prompts are cut, as they are everywhere.
    """
    if length >= clip_tokenizer.LENGTH:
        return np.arange(0)
    return np.flatnonzero(tokenizer.counts(texts) > length)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _params(path: pathlib.Path, digest: str, shapes: Mapping[str, Any]) -> Params:
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: is missing; copy the folder again")
    if (found := _sha256(path)) != digest:
        raise CheckpointError(
            f"{path}: is damaged (sha256 {found[:12]}..., expected {digest[:12]}...);"
            " copy the folder again"
        )
    leaves, _ = tensors.read(path)
    expected = {k: v.shape for k, v in trees.flatten(shapes).items()}
    built.compare(leaves, expected, path)
    params = trees.unflatten({k: leaf.read() for k, leaf in leaves.items()})
    return jax.device_put(params, may_alias=False)
