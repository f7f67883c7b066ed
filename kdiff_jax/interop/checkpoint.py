"""Checkpoints as people have them: ours, or another project's through `foreign`."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import folder, foreign, training
from kdiff_jax.interop.built import built
from kdiff_jax.interop.folder import CONFIG, WEIGHTS
from kdiff_jax.interop.model import Model, of_leaves
from kdiff_jax.interop.source import Facts, Source
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten

log = logging.getLogger(__name__)


def load(
    path,
    source: str | None = None,
    facts: Facts | None = None,
    precision: str | None = None,
) -> Model:
    """Reads a model, ours or another project's; what it is shows in its content.

    Ours are a model folder, a stage folder of a workdir, or a step in it. A stage
    folder without a model gives the newest valid step; the log names those that were
    passed over. For others see `foreign.families`; no code of theirs is run.

    Args:
        path: A file or a folder.
        source: One of `foreign.families()`, to be sure of it.
        facts: What the file does not say.
        precision: Type that the network computes in, "float32" or "bfloat16"; None is
            what the file says, which is float32 unless a recipe made it otherwise.

    Raises:
        CheckpointError: If nothing loadable is there, or it is damaged. One line.

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
        >>> folder = interop.save("student", params=params, spec=values)
        >>> model = interop.load(folder)
        >>> model.num_params, model.spec.sampler.name
        (474, 'ddim')
    """
    found = _load(located(path), source, facts)
    return found.computing_in(precision) if precision else found


def _load(path: pathlib.Path, source: str | None, facts: Facts | None) -> Model:
    if source is None and is_own(path):
        return _load_own(path)
    model, origin = foreign.read(path, facts, source)
    for line in model.assumed:
        log.warning("%s: %s", path.name, line)
    spec = foreign.spec_of(model, origin, path)
    leaves = checked(spec, model, path)
    spec = spec.replace(sha256=origin.sha256)
    return of_leaves(spec, {k: v.read() for k, v in leaves.items()}, path)


def _load_own(path: pathlib.Path) -> Model:
    for place in (path, path / "model"):
        if folder.is_ours(place):
            return folder.load(place)
    if (found := training.find(path)) is not None:
        return of_stage(*found)
    raise CheckpointError(
        f"checkpoint={str(path)!r} holds no model; give a stage folder of a workdir, a"
        f" step in its checkpoints/, a folder with {WEIGHTS} and {CONFIG}, or another"
        " project's checkpoint (docs/teachers.md)"
    )


def of_stage(
    stage: pathlib.Path, steps: Sequence[int], result: str | None = None
) -> Model:
    """The model of a step of a stage folder; for the arguments see `training.load`."""
    return of_params(stage, *training.load(stage, steps, result))


def of_params(
    stage: pathlib.Path, spec: Spec, params: Any, beside: Mapping[str, Any] = {}
) -> Model:
    """The model of parameters that come from the steps of a stage folder.

    Args:
        stage: The folder.
        spec: Spec of the model.
        params: Its parameters.
        beside: What the stage has trained with them, by role.
    """
    model = folder.complete(spec, flatten(params), stage)
    return dataclasses.replace(model, frozen={**model.frozen, **beside})


def located(path) -> pathlib.Path:
    """The path of a checkpoint, as it is read.

    Of a folder with nothing but weights the weights; of a file in a model folder of
    ours the folder, as neither is a model alone.

    Raises:
        CheckpointError: If there is nothing.
    """
    path = pathlib.Path(path).expanduser()
    try:
        there = path.exists()
    except OSError as error:  # a name too long, a loop of links
        raise CheckpointError(
            f"checkpoint={str(path)[:200]!r}: {error.strerror}"
        ) from error
    if not there:
        raise CheckpointError(f"checkpoint={str(path)!r} does not exist")
    if (
        path.name in (WEIGHTS, CONFIG)
        and path.is_file()
        and folder.is_ours(path.parent)
    ):
        return path.parent
    alone = path / WEIGHTS
    return alone if alone.is_file() and not (path / CONFIG).exists() else path


def is_own(path: pathlib.Path) -> bool:
    """Whether `load` reads this as a model of ours, and not as another project's.

    What is ours comes first: the `model` in a stage folder is a part's name elsewhere.
    """
    if not path.is_dir():
        return False
    ours = (
        folder.is_ours(path)
        or folder.is_ours(path / "model")
        or training.find(path) is not None
    )
    return ours or not foreign.is_foreign(path)


def spec_of(path) -> Spec:
    """The spec of the model that `load` would give, without its weights.

    Raises:
        CheckpointError: If nothing loadable is there, as far as that shows by now.
    """
    path = located(path)
    if not is_own(path):
        return foreign.spec_of(*foreign.read(path), path)
    for place in (path, path / "model"):
        if folder.is_ours(place):
            return folder.spec_of(place)
    if (found := training.find(path)) is None:
        raise CheckpointError(f"checkpoint={str(path)!r} holds no model")
    return training.description(found[0]).spec


def checked(spec: Spec, source: Source, where) -> dict[str, Lazy]:
    """The leaves of a foreign checkpoint, if they are those of its network; float32.

    Raises:
        CheckpointError: Names the first leaves that differ.
    """
    built(spec, source.leaves, where)
    return {name: leaf.astype(np.float32) for name, leaf in source.leaves.items()}
