"""Measures a model: python -m kdiff_jax.evaluate --checkpoint=PATH --reference=DATA

The reference is a statistics file (.npz with mu, sigma) or a data set: a name such as
digits or cifar10, an .npz of images, a folder, an EDM .zip. The same model, seed and
number of images give the same figures on any number of devices.
"""

import json
import pathlib
import time

import numpy as np
from absl import flags

from kdiff_jax import command
from kdiff_jax.errors import ConfigError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model, as in kdiff_jax.sample.")
REFERENCE = flags.DEFINE_string("reference", None, "Statistics, or a data set.")
FEATURES = flags.DEFINE_string("features", "pixels", "pixels or resnet56.")
WEIGHTS = flags.DEFINE_string("weights", None, "The file of the feature network.")
NUM = flags.DEFINE_integer("num_images", 10_000, "How many images.", lower_bound=2)
SAMPLER = flags.DEFINE_string("sampler", None, "Default: the model's own.")
STEPS = flags.DEFINE_integer(
    "num_steps", None, "Default: the model's own.", lower_bound=1
)
SEED = flags.DEFINE_integer("seed", 1, "Of the noise.")
BATCH = flags.DEFINE_integer("batch_size", 250, "Images a call.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "Also write the row to this .json.")


def main() -> None:
    checkpoint, reference = command.required(CHECKPOINT), command.required(REFERENCE)
    command.start_distributed()
    import jax

    from kdiff_jax import interop, metrics
    from kdiff_jax.files import json_text, write_atomically
    from kdiff_jax.metrics import features as extractors
    from kdiff_jax.train import generate, measure, parallel

    features = extractors.make(FEATURES.value, weights=WEIGHTS.value)
    model = interop.load(checkpoint)
    mu, sigma = _reference(reference, features, model.image_shape)
    sampler = model.sampler(SAMPLER.value, STEPS.value)
    began = time.monotonic()
    found = measure.generated(
        model,
        sampler,
        features,
        mesh=parallel.make_mesh(),
        num_images=NUM.value,
        seed=SEED.value,
        batch_size=BATCH.value,
        labels=generate.cycled_labels(NUM.value, model.num_classes),
    )
    distance = metrics.frechet_distance(
        found.moments.mu, found.moments.sigma, mu, sigma
    )
    row = {
        "checkpoint": checkpoint,
        "reference": reference,
        "sampler": sampler.name,
        "nfe": sampler.nfe,
        "num_params": model.num_params,
        "num_students": model.num_students,
        "num_params_total": model.num_params * model.num_students,
        "macs": measure.macs(model.net),
        "num_images": NUM.value,
        "seed": SEED.value,
        "metrics": {extractors.metric_name(features): distance},
        "images_per_second": found.images_per_second,
        "latency_ms": found.latency_ms,
        "seconds": time.monotonic() - began,
    }
    if jax.process_index() != 0:
        return
    if OUTPUT.value:
        write_atomically(OUTPUT.value, json_text(row, indent=2) + "\n")
    print(json.dumps(row))


def _reference(text: str, features, image_shape):
    """(mu, sigma) of the reference."""
    from kdiff_jax.data import images
    from kdiff_jax.metrics import moments
    from kdiff_jax.train import measure

    path = pathlib.Path(text)
    if path.suffix == ".npz" and path.is_file():
        with np.load(path, allow_pickle=False) as file:
            if {"mu", "sigma"} <= set(file.files):
                stats = moments.load_stats(path)
                return stats.mu, stats.sigma
    size = image_shape[0]
    if path.is_dir():
        data = images.load("folder", path=text, size=size)
    elif path.suffix in (".npz", ".zip"):
        kind = "npz" if path.suffix == ".npz" else "edm_zip"
        data = images.load(kind, path=text, size=size)
    else:
        data = images.load(text, size=size)
    if data.shape != tuple(image_shape):
        raise ConfigError(
            f"--reference={text}: images of {data.shape}, the model makes {image_shape}"
        )
    found = measure.of_data(data, features)
    return found.mu, found.sigma


if __name__ == "__main__":
    command.run(main)
