"""What a model can be exported as: what `y` is, what is left, what is drawn."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.errors import ConfigError
from kdiff_jax.interop.model import Model
from kdiff_jax.samplers import Sampler

Images = Literal["uint8", "float32", "latents"]
Read = Literal["numbers", "vectors", "tokens"]


def y_of(model: Model, read: Read | None) -> jax.ShapeDtypeStruct:
    """The `y` of one image."""
    net, spec = model.net, model.spec
    conditions, has_table = net.conditions, bool(model.num_classes or not net.cond_dim)
    if read is None:
        read = "numbers" if has_table else "vectors"
        read = "tokens" if spec.text else read
    fits = dict(
        numbers=has_table, vectors=bool(net.cond_dim), tokens=spec.text is not None
    )
    if not fits[read]:
        able = [f"--conditions={name}" for name, fit in fits.items() if fit]
        raise ConfigError(
            f"--conditions={read}: this model reads none; take {' or '.join(able)}"
        )
    if read == "numbers":
        return jax.ShapeDtypeStruct((), jnp.int32)
    if model.partition.groups:
        raise ConfigError(
            f"--conditions={read}: a program routes numbers alone to their students;"
            " take --conditions=numbers, or one student, --student=K"
        )
    if read == "tokens":
        return jax.ShapeDtypeStruct((conditions.length,), jnp.int32)
    texts = (conditions.length,) if conditions.length else ()
    return jax.ShapeDtypeStruct((*texts, net.cond_dim), jnp.float32)


def check_decoder(model: Model, images: str) -> None:
    """Raises ConfigError if no pixels can be made of x0."""
    space = model.net.space
    x0 = jax.ShapeDtypeStruct((1, *space.shape), jnp.float32)
    try:
        jax.eval_shape(space.to_images, dict(model.frozen), x0)
    except ConfigError as error:
        raise ConfigError(
            f"--images={images}: this model has no autoencoder beside it, and its"
            " images are latents; take --images=latents"
        ) from error


def draws_noise(sampler: Sampler) -> bool:
    """Whether a sampler draws noise as it goes."""
    z = jax.ShapeDtypeStruct((1, 1, 1, 1), np.float32)
    y = np.zeros(1, np.int32)
    try:
        jax.eval_shape(lambda z: sampler.sample(_any, z, y, keys=None), z)
    except ConfigError:
        return True  # see `samplers.step_noise`
    return False


def _any(x_t, t, y, **told):
    return x_t
