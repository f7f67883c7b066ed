"""A workdir belongs to one set of images, wherever that lies."""

import logging

import jax

from kdiff_jax import interop, sealed
from kdiff_jax.data import identity, latents
from kdiff_jax.data.images import Images
from kdiff_jax.errors import DataError
from kdiff_jax.interop import trees
from kdiff_jax.stages import Job
from kdiff_jax.train import hosts

log = logging.getLogger(__name__)

FILE = "data.json"


def check(job: Job, images: Images, *, force: bool) -> None:
    """Records the identity of the data in the workdir, or compares it.

    Args:
        job: Its workdir is there.
        images: The data of this run.
        force: Takes other data than before, unless some were measured against.

    Raises:
        DataError: If they are not those that the run began with.
        ConfigError: If the processes of the run have different ones.
    """
    path, now = job.workdir / FILE, identity.of(images)
    if (table := interop.digest_of_conditions(job.table)) is not None:
        now["conditions"] = table
    now |= _read_beside(job)
    hosts.compare(
        {"data": now}, "set --config.data.path on each to a copy of the same images"
    )
    if path.is_file():
        way_out = f"delete it if {images.name} is what this run began with"
        before = sealed.read_json(path, error=DataError, way_out=way_out)
        changed = [k for k in now if before.get(k) != now[k]]
        if not changed:
            return
        what = [f"{k} was {before.get(k)}, is {now[k]}" for k in changed]
        if len(what) > 1:  # then the digest goes without saying
            what = [text for text in what if not text.startswith("sha256")]
        _refuse_unless(force, job, f"data {images.name!r}: {'; '.join(what)}")
        log.info("data %s from here on: %s", images.name, "; ".join(what))
    if jax.process_index() == 0:
        sealed.write_json(path, now)


def _read_beside(job: Job) -> dict[str, str]:
    """Digests of the networks that stand before the data, and of a cache of latents.

    Those that the run makes itself are no matter of where its data lie.
    """
    made = job.recipe.made
    frozen = job.table if {"autoencoder", "latents"} & {*made} else job.frozen
    found = {
        role: sealed.digest_of(jax.device_get(trees.flatten(frozen[role])))
        for role in interop.NETWORKS_BESIDE
        if role in frozen and role not in made
    }
    if job.recipe.brings_latents:
        facts = dict(latents.open_latents(job.recipe.latents).facts)
        found["latents"] = sealed.seal(facts)[sealed.KEY]
    return found


def _refuse_unless(force: bool, job: Job, what: str) -> None:
    evaluations = [job.folder(s.name) for s in job.stages if s.kind == "evaluate"]
    measured = [f for f in evaluations if any(f.glob("reference_*"))]
    if not force:
        raise DataError(
            f"{what}; the run in {job.workdir} began with others: set"
            " --config.data.path to those, or take another --workdir"
        )
    if measured:
        raise DataError(
            f"{what}; {measured[0]} was measured against the data before: delete that"
            " folder, or take another --workdir"
        )
