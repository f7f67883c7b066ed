"""Pairs of noise and the teacher's sample: the training set of a Denoising Student.

Luhman & Luhman 2021, arXiv:2101.02388: no real data are used, the pairs are made once.
Each shard is written whole or not at all, so a stopped run makes only what is missing.
"""

import logging
import pathlib
import time

import jax
import numpy as np

from kdiff_jax import build, samplers
from kdiff_jax.build import Stage
from kdiff_jax.data import pairs
from kdiff_jax.data.pixels import truncate_to_uint8
from kdiff_jax.report.progress import duration
from kdiff_jax.stages import Job, finish
from kdiff_jax.train import generate, parallel

log = logging.getLogger(__name__)

TRAIN, HELD_OUT = "train", "held_out"
FIRST = {TRAIN: 0, HELD_OUT: 2**30}  # numbers of images, so that no noise is shared


def run(job: Job, stage: Stage) -> None:
    """Makes `num_pairs` pairs to train on and `num_held_out` to score with.

    Keywords: num_pairs, num_held_out, shard_size, batch_size, sampler (of the teacher).

    Raises:
        DataError: If the disk is too small, or the folder holds other pairs.
        Interrupted: If a signal asked to stop; finished shards are kept.
    """
    folder, config = job.folder(stage.name), stage.config
    counts = {TRAIN: config["num_pairs"], HELD_OUT: config["num_held_out"]}
    teacher = job.model(stage.init["teacher"])
    build.check_fits(job.config, "teacher", teacher.spec)
    # What is there counts, so both parts are looked at before either is made.
    need = pairs.disk_need(sum(counts.values()), teacher.image_shape)
    log.info("%s: the pairs take %.3g GB", folder, need / 1e9)
    pairs.check_disk(folder, sum(counts.values()), teacher.image_shape)
    keywords = config.get("sampler") or teacher.spec["sampler"]
    sampler = samplers.make(process=teacher.process, **keywords)
    make = generate.of_model(teacher, sampler, mesh=job.mesh, purpose="pairs")
    seed = job.config.get("seed", 0)
    for part, num in counts.items():
        identity = {
            "num_pairs": num,
            "shard_size": config["shard_size"],
            "shape": teacher.image_shape,
            "teacher": teacher.spec["sha256"],
            "sampler": keywords,
            "seed": seed,
            "first": FIRST[part],
        }
        _make(job, folder / part, identity, make, teacher, config["batch_size"])
    if jax.process_index() == 0:
        finish(folder, num_pairs=counts[TRAIN])


def _make(job, folder: pathlib.Path, identity, make, teacher, batch_size) -> None:
    """Writes every shard of one part that is missing or damaged."""
    pairs.begin(folder, identity)
    num, size = identity["num_pairs"], identity["shard_size"]
    absent = np.zeros(-(-num // size), bool)
    absent[pairs.missing(folder, num, size)] = True
    todo = np.flatnonzero(parallel.from_first_host(absent)).tolist()
    began = time.monotonic()
    for done, k in enumerate(todo):
        first = identity["first"] + k * size
        count = min(size, num - k * size)
        labels = generate.cycled_labels(count, teacher.num_classes, first)
        z = np.empty((count, *teacher.image_shape), np.float16)
        x0 = np.empty(z.shape, np.uint8)
        for made in make.batches(
            teacher.params,
            seed=identity["seed"],
            labels=labels,
            batch_size=batch_size,
            first=first,
        ):
            z[made.places] = made.z
            x0[made.places] = truncate_to_uint8(made.x0)
        if jax.process_index() == 0:
            pairs.write_shard(folder, k, z, x0, labels)
        left = (time.monotonic() - began) / (done + 1) * (len(todo) - done - 1)
        log.info(
            "%s: shard %d of %d, %s left", folder, done + 1, len(todo), duration(left)
        )


def source(job: Job, stage: str, part: str = TRAIN) -> pairs.Pairs:
    """The finished pairs of a stage, read by index."""
    return pairs.open_pairs(job.folder(stage) / part)
