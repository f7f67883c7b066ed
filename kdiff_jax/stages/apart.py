"""Students that were trained one by one, in jobs of a queue, become one stage.

With `partition.only=k` a run trains student k in `<stage>/only_<k>/`. When all of them
are done, the same command without it makes of them what one run of all leaves.
"""

import pathlib

import jax
import numpy as np

from kdiff_jax import interop, stages
from kdiff_jax.build import TrainStage
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import training
from kdiff_jax.partition import Partition, same_owners
from kdiff_jax.report import metrics_log
from kdiff_jax.stages import Job
from kdiff_jax.stages.students import Students
from kdiff_jax.train import parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.layout import Layout


def check_before(job: Job, stage: TrainStage) -> None:
    """Refuses to train one student before what all of them need is done.

    Raises:
        ConfigError: Names the stage.
    """
    names = {s.name for s in job.stages}
    for source in [*stage.init.sources.values(), stage.pairs]:
        name = str(source).partition("/")[0]
        if name in names and not stages.is_done(job.left(name)):
            raise ConfigError(
                f"partition.only={job.only}: stage {name!r} is not done, and student"
                f" {job.only} needs it; run it first, with --stage={name}"
            )


def parts(job: Job, stage: TrainStage, students: Students) -> list[pathlib.Path]:
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
        _check_owns(path, students.partition)
    return found


def check_alike(job: Job, stage: TrainStage, partition: Partition) -> None:
    """Refuses to train one student beside others, or from one, of another partition.

    Groups by the teacher's rows, or by a file, are found anew by every job.

    Raises:
        CheckpointError: Names the student's folder.
    """
    beside = sorted((job.workdir / stage.name).glob("only_*"))
    sources = sorted(stage.init.stages)
    before = [job.left(source) for source in sources if job.split(source)]
    own = job.folder(stage.name)  # which is written anew, if it is damaged
    for path in (*beside, *before):
        if path != own and (path / interop.STAGE).is_file():
            _check_owns(path, partition)


def _check_owns(path: pathlib.Path, partition: Partition) -> None:
    if not same_owners(training.description(path).partition, partition):
        raise CheckpointError(
            f"{path}: is a student of another partition; delete it and train it"
            " again, or take another --workdir"
        )


def join(parts: list[pathlib.Path], shapes, mesh, layout: Layout, step: int):
    """(state, step): the last states of all students, stacked.

    Args:
        parts: Their folders, in turn.
        shapes: The state of all of them, as shapes.
        mesh: The devices, in groups that have students of their own.
        layout: How the state lies on those of a group.
        step: The last.

    Raises:
        CheckpointError: If a student's last state is not there.
    """
    one = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), shapes
    )
    alone = parallel.make_mesh(list(mesh.devices.flat))
    one = parallel.abstract(one, alone, layout.on(alone))
    found = []
    for path in parts:
        checkpoints = Checkpoints(path / "checkpoints")
        state = checkpoints.restore_latest(one)
        checkpoints.close()
        if state is None or state[1] != step:
            raise CheckpointError(
                f"{path}: its checkpoint of step {step} is missing or damaged; delete"
                " the folder and train this student again"
            )
        found.append(parallel.to_host(state[0]))
    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *found)
    return parallel.lay_out(whole, mesh, layout), step


def join_logs(parts: list[pathlib.Path], folder: pathlib.Path) -> None:
    """`metrics.jsonl` of all, as one run of them writes it: the mean, and each."""
    logs = [metrics_log.read(path / "metrics.jsonl") for path in parts]
    of_step = [{row["step"]: row for row in rows} for rows in logs]
    steps = sorted(set(of_step[0]).intersection(*of_step))
    lines = []
    for step in steps:  # a job may have logged more often than others
        rows = [found[step] for found in of_step]
        line = {"step": step}
        # A student alone has written its metrics as name/number, too.
        for name in (n for n in rows[0] if n != "step" and not n.endswith("/0")):
            values = [row[name] for row in rows if name in row]
            summed = name in ("images", "train_seconds")
            line[name] = sum(values) if summed else sum(values) / len(values)
        for row in rows:
            line |= {n: v for n, v in row.items() if n.rpartition("/")[2].isdigit()}
        lines.append(line)
    if lines:
        last = [rows[-1].get("train_seconds", 0.0) for rows in logs]
        lines[-1]["train_seconds"] = sum(last)
    if jax.process_index() == 0:
        metrics_log.write(folder / "metrics.jsonl", lines)
