"""Students that were trained one by one, in jobs of a queue, become one stage.

With `partition.only=k` a run trains student k in `<stage>/only_<k>/`. When all of them
are done, the same command without it makes of them what one run of all leaves.
"""

import json
import pathlib

import jax
import numpy as np

from kdiff_jax import interop, stages
from kdiff_jax.build import Stage
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.stages import Job
from kdiff_jax.stages.students import Students
from kdiff_jax.train import parallel
from kdiff_jax.train.checkpoint import Checkpoints


def check_before(job: Job, stage: Stage) -> None:
    """Refuses to train one student before what all of them need is done.

    Raises:
        ConfigError: Names the stage.
    """
    names = {s.name for s in job.stages}
    for source in [*stage.init.values(), stage.config.get("pairs")]:
        name = str(source).partition("/")[0]
        if name in names and not stages.is_done(job.folder(name)):
            raise ConfigError(
                f"partition.only={job.only}: stage {name!r} is not done, and student"
                f" {job.only} needs it; run it first, with --stage={name}"
            )


def parts(job: Job, stage: Stage, students: Students) -> list[pathlib.Path]:
    """The folders of all students in turn, if they were trained apart; else none.

    Raises:
        CheckpointError: If some were and others not, or their partition is another.
    """
    if job.only is not None:
        return []
    folder = job.folder(stage.name)
    found = [folder / f"only_{k}" for k in students.ids]
    missing = [str(k) for k, p in enumerate(found) if not stages.is_done(p)]
    if not any(path.is_dir() for path in found):
        return []
    if missing:
        raise CheckpointError(
            f"stage {stage.name!r}: students {', '.join(missing)} of {len(found)} are"
            " not done apart as the others are; run them, each with"
            f" --config.partition.only=K, or delete {folder}/only_*"
        )
    for path in found:
        owns = json.loads((path / interop.STAGE).read_text())["partition"]
        if owns != students.partition.to_spec():
            raise CheckpointError(
                f"{path}: is a student of another partition; delete it and train it"
                " again"
            )
    return found


def join(parts: list[pathlib.Path], template, step: int):
    """(state, step): the last states of all students, stacked.

    Args:
        parts: Their folders, in turn.
        template: The state of all of them, as shapes and places.
        step: The last.
    """
    mesh = jax.tree.leaves(template)[0].sharding.mesh
    one = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), template
    )
    alone = parallel.make_mesh(list(mesh.devices.flat))
    one = parallel.abstract(one, alone, stacked=True)
    found = []
    for path in parts:
        checkpoints = Checkpoints(path / "checkpoints", stacked=True)
        found.append(parallel.to_host(checkpoints.restore(step, one)))
        checkpoints.close()
    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *found)
    return parallel.replicate(whole, mesh, stacked=True), step
