"""What a stage that trains an autoencoder leaves: a folder vae/, and facts of it."""

from typing import Any, NamedTuple

import jax
import numpy as np

from kdiff_jax import latent
from kdiff_jax.build import AutoencoderStage
from kdiff_jax.data import batches as data_batches
from kdiff_jax.data.images import Images
from kdiff_jax.encoders import trained as trained_encoders
from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL
from kdiff_jax.metrics import table
from kdiff_jax.metrics.collect import Collector
from kdiff_jax.stages import Job, compared, finish, results
from kdiff_jax.stages.reconstructions import Reconstructor, joined
from kdiff_jax.train import parallel

METRIC = "fd"  # of reconstructions: what students on the latents cannot do better than


class Trained(NamedTuple):
    """An autoencoder that has been trained.

    Attributes:
        params: Its parameters, with an axis of one student.
        reconstruct: Images through it.
        held_out: Images that it was not trained on.
        images: Those that it was trained on.
        seconds: What the training took.
    """

    params: Any
    reconstruct: Reconstructor
    held_out: Images
    images: Images
    seconds: float


def leave(
    job: Job, stage: AutoencoderStage, module: AutoencoderKL, trained: Trained
) -> None:
    """Measures the autoencoder, writes its folder and marks the stage as done."""
    train, about = stage.train, _measured(stage, trained)
    _save(job, stage, module, trained.params, about["latent_std"])
    about |= _distance(job, stage, trained)
    about |= {"method": stage.method.name}
    if jax.process_index() == 0:
        finish(
            job.folder(stage.name),
            train_steps=train.num_steps,
            train_images=train.num_steps * train.batch_size,
            train_seconds=trained.seconds,
            average=results.average(train) or "params",
            **about,
        )


def _measured(stage: AutoencoderStage, trained: Trained) -> dict[str, Any]:
    """Errors on held-out images, and the scale of the latents of the others."""
    params, reconstruct, held_out, images, _ = trained
    chosen = places(stage, images)
    parts = [
        part._replace(images=part.images[:0])
        for part in reconstruct.parts(params, images, chosen)
    ]
    std = joined(parts).std()
    errors = reconstruct(params, held_out, np.arange(held_out.num)).errors()
    return {
        "latent_std": std,
        "held_out": errors,
        "num_held_out": held_out.num,
        "num_measured": len(chosen),
    }


def _distance(job: Job, stage: AutoencoderStage, trained: Trained) -> dict[str, float]:
    """`METRIC` of reconstructions, to the whole set; {} without features."""
    options = compared.options_of(job)
    features = compared.features_for(job, options) if options.features else None
    if features is None:
        return {}
    images, begin = trained.images, 0
    chosen = places(stage, images)
    look = Collector(features, table.needs((METRIC,)), len(chosen), images.shape)
    for part in trained.reconstruct.parts(trained.params, images, chosen):
        look.add(np.arange(begin, begin + len(part.l1)), part.images)
        begin += len(part.l1)
    folder = compared.folder_of(job) or job.folder(stage.name)
    needed = table.needs_of_reference((METRIC,))
    needed |= compared.needs_of_reference(options)
    reference = compared.statistics(job, features, folder, needed)
    return table.measure((METRIC,), features, look.seen(), reference.seen)


def places(stage: AutoencoderStage, images: Images) -> np.ndarray:
    """Which images are measured, chosen at random."""
    num = min(stage.num_measured, images.num)
    return np.sort(data_batches.permutation(1, 0, images.num)[:num])


def _save(
    job: Job, stage: AutoencoderStage, module: AutoencoderKL, params, std: float
) -> None:
    """Writes the folder vae/: of latents of deviation 1, which no factor scales."""
    params = jax.tree.map(lambda x: x[0], parallel.to_host(params))
    if jax.process_index() == 0:
        side = job.recipe.space.pixel_shape[0]
        params = trained_encoders.divided(module, params, std)
        made = latent.Autoencoder(module, params, 1.0, sample_size=side)
        made.save(job.folder(stage.name))
