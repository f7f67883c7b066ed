"""What projected discriminators read: feature maps of classifiers and of a teacher."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import features as feature_networks
from kdiff_jax import rng
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import CLASSIFIER
from kdiff_jax.method import Net, Pretrained


class Extractor(NamedTuple):
    """A frozen feature network: images in [-1, 1] -> its maps.

    Attributes:
        maps: (frozen, images, y, keys) -> [[B, H_i, W_i, C_i], ...].
        shapes: (batch size) -> their shapes.
        pyramid: See `projected.Discriminator`.
        of_images: Whether it reads what latents decode to, not the latents.
    """

    maps: Callable[..., Any]
    shapes: Callable[[int], Any]
    pyramid: tuple[int, ...] = ()
    of_images: bool = False


def classifiers(features, files) -> dict[str, Pretrained]:
    """The classifiers by name, each to be read from its file."""
    known = ("teacher", *feature_networks.names(CLASSIFIER))
    wrong = [name for name in features if name not in known]
    if wrong or not features or len(set(features)) < len(features):
        raise ConfigError(
            f"features={features}: choose from {', '.join(known)}, each at most once"
        )
    wanted = [name for name in features if name != "teacher"]
    if len(wanted) != len(files):
        raise ConfigError(
            f"feature_files={files}: give one file each for {', '.join(wanted) or 'no'}"
            " features; 'teacher' needs none"
        )
    return {
        name: _pretrained(feature_networks.network(name, CLASSIFIER), file)
        for name, file in zip(wanted, files, strict=True)
    }


def _pretrained(classifier: ModuleType, file: str) -> Pretrained:
    def read():
        try:
            return classifier.load(file)
        except CheckpointError as error:
            why = str(error).removeprefix("weights=")
            raise CheckpointError(f"feature_files={why}") from error

    return Pretrained(classifier.shapes(), read)


def of_classifier(name: str, student: Net, *, of_images: bool) -> Extractor:
    """The feature maps of a classifier, which sees no label and no noise."""
    classifier = feature_networks.network(name, CLASSIFIER)

    def features(params, images):
        return classifier.features(params, images, student.precision)

    def maps(frozen, images, y, keys):
        del y, keys
        return features(frozen[name], images)

    def shapes(batch):
        x = jax.ShapeDtypeStruct((batch, *student.space.pixel_shape), jnp.float32)
        return jax.eval_shape(features, classifier.shapes(), x)

    pyramid = getattr(classifier, "PYRAMID", ())
    return Extractor(maps, shapes, pyramid, of_images)


def of_teacher(teacher: Net | None, process, noise_levels) -> dict[str, Extractor]:
    """The teacher's encoder at each noise level, told the label."""
    if teacher is None or teacher.encode is None:
        raise ConfigError(
            "init.teacher: the discriminator reads the encoder of a teacher, and there"
            " is none; give the path of a model, or a stage"
        )
    if not noise_levels or min(noise_levels) <= 0:
        raise ConfigError(f"noise_levels={noise_levels}: at least one, all above 0")
    encode = teacher.encode
    params = jax.eval_shape(teacher.init, jax.random.key(0))

    def extractor(i, level):
        t = process.time_of_logsnr(-2 * np.log(level))
        if process.num_timesteps:
            t = np.round(t)
        t = float(np.clip(process.round_time(t), process.t_min, process.t_max))

        def maps(frozen, images, y, keys):
            times = jnp.full(len(images), t, jnp.float32)
            eps = rng.normal(keys, f"eps_{i}", images.shape[1:])
            x_t = process.add_noise(images, eps, times)
            return encode(frozen["teacher"], x_t, times, y)

        def shapes(batch):
            x = jax.ShapeDtypeStruct((batch, *teacher.image_shape), jnp.float32)
            times = jax.ShapeDtypeStruct((batch,), jnp.float32)
            y = jax.eval_shape(lambda: teacher.conditions.example(batch))
            return jax.eval_shape(encode, params, x, times, y)

        return Extractor(maps, shapes)

    return {f"teacher_{i}": extractor(i, s) for i, s in enumerate(noise_levels)}
