"""Reads the parameters of a run in progress: a step of a stage's Orbax checkpoints.

A stage folder says in `model.json` what its network is, which role it trains, and
whether its result is the moving average ("ema") or the raw weights ("params"). Each
step holds a digest of every leaf, and what is read here is checked against it.
"""

import json
import logging
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop.trees import unflatten

log = logging.getLogger(__name__)

STAGE = "model.json"


def find(path: pathlib.Path) -> tuple[pathlib.Path, list[int]] | None:
    """(stage folder, steps to try) of a stage folder or of one of its steps, or None.

    A stage folder gives all of its steps, the newest first; a step gives itself.
    """
    if (path / STAGE).is_file():
        steps = sorted(_steps(path / "checkpoints"), reverse=True)
        return (path, steps) if steps else None
    stage = path.parent.parent
    if path.name.isdigit() and path.is_dir() and (stage / STAGE).is_file():
        return stage, [int(path.name)]
    return None


def load(
    stage: pathlib.Path, steps: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (spec, params) of the first of these steps that is sound.

    Those before it are named in the log, as errors.

    Raises:
        CheckpointError: If no step is.
    """
    try:
        about = json.loads((stage / STAGE).read_text())
        prefix = f"nets/{about['role']}/{about['result']}/"
        spec = about["spec"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{stage / STAGE} is not a stage's: {error!r}; run the stage again, which"
            " writes it"
        ) from error
    params = _newest(stage, steps, prefix)
    if about.get("alone"):  # one of several students, with an axis of length 1
        params = jax.tree.map(lambda x: x[0], params)
    return spec, params


def role(stage: pathlib.Path, name: str) -> dict[str, Any]:
    """The raw weights of any trained role, of the newest sound step of a stage folder.

    Raises:
        CheckpointError: If there is no step, or none that holds this role.
    """
    steps = sorted(_steps(stage / "checkpoints"), reverse=True)
    if not steps:
        raise CheckpointError(
            f"stage {stage.name!r} has no checkpoint in {stage}; run it first: the same"
            " command without --stage"
        )
    return _newest(stage, steps, f"nets/{name}/params/")


class _Absent(Exception):
    """A sound checkpoint does not hold what is asked for."""


def _newest(stage: pathlib.Path, steps: Sequence[int], prefix: str) -> dict[str, Any]:
    """The leaves below `prefix` of the first of these steps that is sound."""
    for step in steps:
        folder = stage / "checkpoints" / str(step)
        try:
            return unflatten(_read(folder, prefix))
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
    """{"a/b": leaf} of the leaves below `prefix`, each equal to its digest."""
    meta = json.loads((folder / "meta" / "metadata").read_text())
    if meta["step"] != int(folder.name):
        raise ValueError(f"it says step {meta['step']}")
    wanted = {k: v for k, v in meta["leaves"].items() if k.startswith(prefix)}
    if not wanted:
        nets = [k.split("/")[1] for k in meta["leaves"] if k.startswith("nets/")]
        roles = ", ".join(dict.fromkeys(nets))
        raise _Absent(f"it has no {prefix}; its roles are {roles}")
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
    for path, digest in wanted.items():
        if _digest(restored[path], by_rows="rows" in digest) != digest:
            raise ValueError(f"{path} differs from its checksum")
    return {k.removeprefix(prefix): restored[k] for k in wanted}


def _digest(leaf: np.ndarray, *, by_rows: bool) -> dict[str, Any]:
    facts = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    if by_rows:  # of several students
        return facts | {"rows": [_checksum(row) for row in leaf]}
    return facts | {"crc32": _checksum(leaf)}


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _steps(folder: pathlib.Path):
    if folder.is_dir():
        yield from (int(p.name) for p in folder.iterdir() if p.name.isdigit())
