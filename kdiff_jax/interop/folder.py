"""A model as a folder: `model.safetensors`, `config.json`, `README.md`.

The config is the model's spec, in plain values: from it the network, its
preconditioning and its process are built, so that loading executes no code.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax import __version__, networks, sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import beside
from kdiff_jax.interop.built import check_sampler, read
from kdiff_jax.interop.model import Model, of_leaves
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
AGAIN = (
    "copy the folder again; other values come by training or converting it again, not"
    " by hand"
)


def save(
    folder,
    *,
    params,
    spec: Spec | Mapping[str, Any],
    card: str = "",
    frozen: Mapping[str, Any] = {},
) -> pathlib.Path:
    """Writes a model folder; an interrupted call leaves no half-written model.

    Args:
        folder: Made where it does not exist; a model in it is replaced.
        params: Tree of arrays.
        spec: What the model is, a `Spec` or the plain values of one.
        card: Markdown for people.
        frozen: See `Model`.

    Returns:
        The folder.

    Raises:
        ConfigError: If plain values are those of no model.

    Examples:
        >>> import jax
        >>> from kdiff_jax import interop
        >>> values = {
        ...     "network": {"name": "mlp", "channels": 8},
        ...     "precondition": {"name": "v"},
        ...     "process": {"name": "cosine"},
        ...     "sampler": {"name": "ddim", "num_steps": 4},
        ...     "image_shape": (1, 1, 2),
        ...     "num_classes": 4,
        ... }
        >>> params = interop.build(values)[0].init(jax.random.key(0))
        >>> folder = interop.save("student", params=params, spec=values, card="# Mine")
        >>> sorted(file.name for file in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    leaves = {k: lazy.of(np.asarray(v)) for k, v in flatten(params).items()}
    return write(folder, leaves=leaves, spec=Spec.of(spec), card=card, frozen=frozen)


def write(
    folder,
    *,
    leaves: Mapping[str, Lazy],
    spec: Spec,
    card: str = "",
    frozen: Mapping[str, Any] = {},
) -> pathlib.Path:
    """As `save`, from {"a/b": leaf}; holds one leaf at a time."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The spec comes last: a folder without it holds no model.
    (folder / CONFIG).unlink(missing_ok=True)
    spec = beside.write(folder, spec, frozen).replace(
        revision=networks.revision(spec.network.name),
        sha256=tensors.write(folder / WEIGHTS, leaves),
        kdiff_jax=__version__,
    )
    write_atomically(folder / CARD, card)
    sealed.write_json(folder / CONFIG, spec.plain())
    return folder


def is_ours(folder: pathlib.Path) -> bool:
    """Whether this is a model folder of ours."""
    if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
        return False
    try:
        spec = json.loads((folder / CONFIG).read_text())
    except (RecursionError, ValueError):
        return True  # and damaged: loading it says how
    return isinstance(spec, dict) and bool({"network", sealed.KEY} & spec.keys())


def spec_of(folder: pathlib.Path) -> Spec:
    """The spec of a model folder of ours.

    Raises:
        CheckpointError: If it is damaged.
    """
    path = folder / CONFIG
    values = sealed.read_json(path, error=CheckpointError, way_out=AGAIN)
    if not isinstance(values.get("sha256"), str):
        raise CheckpointError(f"{path}: is no model's spec; {AGAIN}")
    return read(values, folder)


def load(folder: pathlib.Path) -> Model:
    """The model of a folder of ours.

    Raises:
        CheckpointError: If it is damaged.
    """
    spec = spec_of(folder)
    expected = spec.sha256 or ""  # which `spec_of` has seen
    with open(folder / WEIGHTS, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS} has sha256 {found[:12]}..., expected"
            f" {expected[:12]}...; it is damaged: copy or train it again"
        )
    leaves, _ = tensors.read(folder / WEIGHTS)
    return complete(spec, {k: v.read() for k, v in leaves.items()}, folder)


def complete(spec: Spec, leaves: Mapping[str, Any], folder: pathlib.Path) -> Model:
    """A model of ours, with its sampler checked and the table beside its weights.

    Args:
        spec: What the model is.
        leaves: Its parameters, {"a/b": array}.
        folder: Folder of the model, or of the stage that trained it.

    Raises:
        CheckpointError: If they do not fit.
    """
    model = of_leaves(spec, leaves, folder)
    check_sampler(spec, model.process, folder)
    return dataclasses.replace(model, frozen=beside.read(folder, spec))
