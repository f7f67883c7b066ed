"""Pairs of noise and the teacher's sample: the training set of a Denoising Student.

Luhman & Luhman 2021, arXiv:2101.02388: no real data are used, the pairs are made once.
Each shard is written whole or not at all, so a stopped run makes only what is missing.
"""

import logging
import pathlib
import time
from typing import Any

import jax
import numpy as np

from kdiff_jax import build, interop, memory
from kdiff_jax.build import PairsStage
from kdiff_jax.data import pairs
from kdiff_jax.errors import DataError
from kdiff_jax.interop import Spec
from kdiff_jax.report.progress import duration
from kdiff_jax.stages import Job, finish
from kdiff_jax.train import generate, parallel, watchdog

log = logging.getLogger(__name__)

TRAIN, HELD_OUT = "train", "held_out"
AT_ONCE = 8  # shards that threads verify
FIRST = {TRAIN: 0, HELD_OUT: 2**30}  # numbers of images, so that no noise is shared


def run(job: Job, stage: PairsStage) -> None:
    """Makes `num_pairs` pairs to train on and `num_held_out` to score with.

    Keywords: num_pairs, num_held_out, shard_size, batch_size, sampler (of the teacher).

    Raises:
        DataError: If the folder holds other pairs.
        StorageError: If the disk is too small, or does not take a shard; finished
            shards are kept.
        Interrupted: If a signal asked to stop; finished shards are kept.
    """
    folder = job.folder(stage.name)
    counts = {TRAIN: stage.num_pairs, HELD_OUT: stage.num_held_out}
    source = stage.init.teacher or ""
    teacher = job.model(source, stage.precision)
    build.check_fits(job.recipe, "teacher", teacher.spec)
    kept = teacher.net.space.kept
    # What is there counts, so both parts are looked at before either is made.
    need = pairs.disk_need(sum(counts.values()), teacher.image_shape, kept)
    log.info("%s: the pairs take %s", folder, memory.size_text(need))
    pairs.check_disk(folder, sum(counts.values()), teacher.image_shape, kept)
    spec = build.spec_of(stage, teacher.spec)
    assert spec.sampler is not None
    sampler = interop.sampler_of(spec, teacher.process)
    make = generate.of_model(
        teacher,
        sampler,
        mesh=job.mesh,
        purpose="pairs",
        leave=teacher.net.space.to_kept,
        name=f"stage {stage.name!r}, teacher={source}",
        batch_option=f"{job.section(stage.name)}.batch_size",
    )
    for part, num in counts.items():
        if not num:
            continue
        identity = {"num_pairs": num, **_identity(job, stage, spec, kept, part)}
        _make(job, folder / part, identity, make, teacher, stage.batch_size)
    if jax.process_index() == 0:
        finish(folder, num_pairs=counts[TRAIN])


def _identity(
    job: Job, stage: PairsStage, spec: Spec, kept: np.dtype, part: str
) -> dict[str, Any]:
    """What the pairs of a part are, less their number: others are no part of them."""
    assert spec.sampler is not None
    found: dict[str, Any] = {
        "shard_size": stage.shard_size,
        "shape": spec.image_shape,
        "teacher": spec.sha256,
        "sampler": spec.sampler.plain(),
        "seed": job.recipe.seed,
        "first": FIRST[part],
    }
    if spec.conditions:
        found["conditions"] = spec.conditions
    if kept != pairs.BYTE:
        found["x0_type"] = str(kept)
    return found


def _make(job, folder: pathlib.Path, identity, make, teacher, batch_size) -> None:
    """Writes every shard of one part that is missing or damaged."""
    pairs.begin(folder, identity)
    parallel.wait_for_all("note of the pairs")
    num, size = identity["num_pairs"], identity["shard_size"]
    todo = _missing(folder)
    began = time.monotonic()
    for done, k in enumerate(todo):
        first = identity["first"] + k * size
        count = min(size, num - k * size)
        labels = generate.cycled_labels(count, teacher.num_classes, first)
        z = np.empty((count, *teacher.image_shape), np.float16)
        x0 = np.empty(z.shape, identity.get("x0_type", np.uint8))
        for made in make.batches(
            teacher.students,
            seed=identity["seed"],
            labels=labels,
            batch_size=batch_size,
            first=first,
        ):
            z[made.places] = made.z
            x0[made.places] = made.x0
        if jax.process_index() == 0:
            pairs.write_shard(folder, k, z, x0, labels)
        left = (time.monotonic() - began) / (done + 1) * (len(todo) - done - 1)
        log.info(
            "%s: shard %d of %d, %s left", folder, done + 1, len(todo), duration(left)
        )


def source(job: Job, stage: str, part: str = TRAIN) -> pairs.Pairs:
    """The finished pairs of a stage, read by index; damaged shards are made again.

    Every byte is read once and verified, by all hosts together.

    Raises:
        DataError: If shards are damaged again as soon as they are made.
    """
    folder = job.folder(stage)
    if damage := _damage(folder / part):
        log.error("%s; what is missing or damaged is made again", damage)
        (maker,) = (s for s in job.stages if s.kind == "pairs" and s.name == stage)
        run(job, maker)
        parallel.wait_for_all("pairs")
        if damage := _damage(folder / part):
            raise DataError(f"{damage}, though just made: this storage loses data")
    return pairs.open_pairs(folder / part)


def _damage(folder: pathlib.Path) -> str:
    """What is wrong with the pairs of one part, in a line, or ""."""
    try:
        bad = _missing(folder)
    except DataError as error:
        return str(error)
    numbers = ", ".join(map(str, bad[:10])) + ", ..." * (len(bad) > 10)
    return f"{folder}: missing or damaged shards: {numbers}" if bad else ""


def _missing(folder: pathlib.Path) -> list[int]:
    """Shards that are not there or damaged; each host reads its part of them."""
    absent = np.zeros(pairs.num_shards(folder), bool)
    mine = range(jax.process_index(), len(absent), jax.process_count())
    if there := pairs.num_there(folder):
        log.info("%s: reading %d shards, to verify them", folder, there)
    for first in range(0, len(mine), AT_ONCE):
        absent[pairs.missing(folder, mine[first : first + AT_ONCE])] = True
        watchdog.beat()  # hundreds of gigabytes take a while
    return np.flatnonzero(parallel.on_any_host(absent)).tolist()
