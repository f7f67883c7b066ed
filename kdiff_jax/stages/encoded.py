"""A stage that encodes the images of the recipe, so that others train on latents."""

import logging

import jax

from kdiff_jax import build, latent, memory, shards
from kdiff_jax.build import LatentsStage
from kdiff_jax.data import latents as files
from kdiff_jax.stages import Job, finish, latents

log = logging.getLogger(__name__)


def run(job: Job, stage: LatentsStage) -> None:
    """Makes what is missing of the cache, as `python -m kdiff_jax.cache` does.

    Nothing is unsaved meanwhile but a shard: a signal ends the process.

    Raises:
        DataError: If the folder holds another cache.
        StorageError: If the disk is too small, or does not take a shard; finished
            shards are kept.
    """
    folder = job.folder(stage.name)
    vae = latent.load(job.recipe.autoencoder, precision=stage.precision)
    content = latents.Content(build.load_labelled(job.recipe), None)
    flip = job.recipe.flips
    facts = latents.facts(content, vae, {}, shard_size=stage.shard_size, flip=flip)
    need = files.disk_need(facts)
    size = memory.size_text(need)
    log.info("%s: %d images take %s", folder, facts["num_images"], size)
    shards.check_room(folder, need, "latents", "or choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    latents.make(folder, facts, content, vae, {}, batch_size=stage.batch_size)
    if jax.process_index() == 0:
        finish(folder, num_images=facts["num_images"])
