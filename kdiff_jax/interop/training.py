"""Reads the parameters of a run in progress: a step of a stage's Orbax checkpoints.

A stage folder says in `model.json` what its network is, which role it trains, and
whether its result is a moving average, by its name, or the raw weights ("params"). Each
step holds a digest of every leaf, and what is read here is checked against it.
"""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from kdiff_jax import sealed
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import beside
from kdiff_jax.interop import steps as step_folders
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import unflatten
from kdiff_jax.partition import Partition

log = logging.getLogger(__name__)

STAGE = "model.json"


def find(path: pathlib.Path) -> tuple[pathlib.Path, list[int]] | None:
    """(stage folder, steps to try) of a stage folder or of one of its steps, or None.

    A stage folder gives all of its steps, the newest first; a step gives itself.
    """
    if (path / STAGE).is_file():
        steps = step_folders.of(path / "checkpoints")
        return (path, steps) if steps else None
    path = path.absolute()
    stage, step = path.parent.parent, step_folders.number(path)
    if step is not None and path.is_dir() and (stage / STAGE).is_file():
        return stage, [step]
    return None


def result_of(path: pathlib.Path) -> str | None:
    """Of which weights a stage's model or step is: "params", or a moving average.

    Args:
        path: A stage folder, its model folder, or a step in it.

    Returns:
        The name, or None for what is of no stage, or of one that does not say it.
    """
    path = path.absolute()
    stages = {"model": path.parent, "checkpoints": path.parent.parent}
    stage = stages.get(path.name, stages.get(path.parent.name, path))
    stage = path if (path / STAGE).is_file() else stage
    try:
        return description(stage).result if (stage / STAGE).is_file() else None
    except CheckpointError as error:
        log.error("%s", error)
        return None


def average_of(path: pathlib.Path, spec: Spec) -> str | None:
    """Which weights of a training a model is: what its file says, or else its stage.

    Args:
        path: Where it lies.
        spec: Its spec.

    Returns:
        See `Spec.average`; None for a model of others.
    """
    return spec.average or result_of(path)


class Description(NamedTuple):
    """What the steps of a stage folder are.

    Attributes:
        spec: Spec of the stage's model.
        role: Role that the model is made of.
        result: "params", or the name of the moving average that the model is.
        partition: Partition of the recipe's students; None without one. A student that
            is trained alone has it here, and none in its spec.
        powers: Name -> relative width, of the averages that are power functions.
        beside: Further roles that the stage trains and its model has a copy of.
    """

    spec: Spec
    role: str
    result: str
    partition: Partition | None = None
    powers: Mapping[str, float] = {}
    beside: tuple[str, ...] = ()


def describe(
    stage: pathlib.Path, about: Description, frozen: Mapping[str, Any] = {}
) -> None:
    """Writes what the steps of a stage folder are, which `description` reads.

    Args:
        stage: The folder.
        about: The description.
        frozen: The table of its vectors, if it has one, which is written beside it.
    """
    spec = beside.write(stage, about.spec, frozen)
    found = about._asdict() | {"spec": spec.plain()}
    if about.partition is not None:
        found["partition"] = about.partition.to_spec()
    kept = {name: value for name, value in found.items() if value}
    sealed.write_json(stage / STAGE, kept)


def description(stage: pathlib.Path) -> Description:
    """What `describe` has written.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    way_out = (
        f"delete {stage / 'done.json'}, if it is there, and run the same command again:"
        " it writes this file anew and goes on from the last checkpoint"
    )
    about = sealed.read_json(stage / STAGE, error=CheckpointError, way_out=way_out)
    kinds = {"spec": dict, "role": str, "result": str}
    wrong = [k for k, kind in kinds.items() if not isinstance(about.get(k), kind)]
    try:
        if wrong:
            raise ConfigError(f"it lacks {', '.join(wrong)}")
        owners, powers = about.get("partition"), about.get("powers", {})
        if not _are_widths(powers):
            raise ConfigError(f"powers={str(powers)[:60]}: must be names with widths")
        return Description(
            Spec.of(about["spec"]),
            about["role"],
            about["result"],
            None if owners is None else Partition.from_spec(owners),
            powers,
            tuple(about.get("beside", ())),
        )
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{stage / STAGE}: is no description of a stage ({error}); {way_out}"
        ) from error


def _are_widths(powers) -> bool:
    numbers = powers.values() if isinstance(powers, dict) else [None]
    return all(isinstance(width, (int, float)) for width in numbers)


def load(
    stage: pathlib.Path, steps: Sequence[int], result: str | None = None
) -> tuple[Spec, dict[str, Any], dict[str, Any]]:
    """Returns (spec, params, beside) of the first of these steps that is sound.

    Beside are parameters that the stage trains with those of its model, by role.

    Those before it are named in the log, as errors.

    Args:
        stage: A stage folder.
        steps: Its steps, in the order of trial.
        result: Name of a moving average of the stage's role, or "params"; None for what
            the stage's result is made of.

    Raises:
        CheckpointError: If no step is, or none has this average.
    """
    about = description(stage)
    result = result or about.result
    part = "params" if result == "params" else f"ema/{result}"
    wanted = [f"nets/{name}/{part}/" for name in (about.role, *about.beside)]
    params, *more = _newest(stage, steps, *wanted)
    if about.spec.partition is None:  # a model of one student has no axis of them
        params = jax.tree.map(lambda x: x[0], params)
    more = [jax.tree.map(lambda x: x[0], one) for one in more]
    spec = about.spec.replace(average=result)
    return spec, params, dict(zip(about.beside, more, strict=True))


def role(stage: pathlib.Path, name: str) -> dict[str, Any]:
    """The raw weights of any trained role, of the newest sound step of a stage folder.

    Their leaves have a leading axis of students.

    Raises:
        CheckpointError: If there is no step, or none that holds this role.
    """
    steps = step_folders.of(stage / "checkpoints")
    if not steps:
        raise CheckpointError(
            f"stage {stage.name!r} has no checkpoint in {stage}; run it first: the same"
            " command without --stage"
        )
    (found,) = _newest(stage, steps, f"nets/{name}/params/")
    return found


class _Absent(Exception):
    """A sound checkpoint does not hold what is asked for."""


def _newest(
    stage: pathlib.Path, steps: Sequence[int], *prefixes: str
) -> list[dict[str, Any]]:
    """The leaves below each prefix, of the first of these steps that is sound."""
    for step in steps:
        folder = stage / "checkpoints" / str(step)
        try:
            return [unflatten(_read(folder, prefix)) for prefix in prefixes]
        except _Absent as error:
            raise CheckpointError(f"checkpoint {folder}: {error}") from None
        except Exception as error:  # Orbax raises bare exceptions for damaged files
            damage = f"checkpoint {folder}: {' '.join(str(error).split())[:200]}"
            if len(steps) == 1:
                raise CheckpointError(
                    f"{damage}; it is damaged or unfinished: take another step"
                ) from error
            log.error("%s; trying the step before", damage)
    raise CheckpointError(
        f"no valid checkpoint among steps {list(steps)} of {stage}; restore the folder,"
        " or train again"
    )


def _read(folder: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
    """{"a/b": leaf [students, ...]} below `prefix`, each equal to its digest."""
    meta = step_folders.read(folder)
    prefix = step_folders.stored_name(prefix, meta.version)
    wanted = {k: v for k, v in meta.leaves.items() if k.startswith(prefix)}
    if not wanted:
        nets = [k.split("/")[1] for k in meta.leaves if k.startswith("nets/")]
        roles = ", ".join(dict.fromkeys(nets))
        absent = f"it has no {prefix}; its roles are {roles}"
        # A version before wrote names that nothing verifies.
        raise _Absent(absent) if meta.is_sealed else ValueError(absent)
    with ocp.PyTreeCheckpointer() as reader:
        restored = reader.restore(
            (folder / "state").absolute(),
            args=ocp.args.PyTreeRestore(
                item={k: 0 for k in wanted},
                restore_args={
                    k: ocp.RestoreArgs(restore_type=np.ndarray) for k in wanted
                },
                partial_restore=True,
            ),
        )
    for path, stored in wanted.items():
        here = step_folders.digest(restored[path], by_rows="rows" in stored)
        same_facts = all(here[name] == stored[name] for name in ("shape", "dtype"))
        if not same_facts or step_folders.differs(here, stored):
            raise ValueError(f"{path} differs from its checksum")
    if step_folders.without_students(meta.leaves):
        restored = {path: leaf[None] for path, leaf in restored.items()}
    return {k.removeprefix(prefix): restored[k] for k in wanted}
