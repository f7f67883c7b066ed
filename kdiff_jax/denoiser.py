"""A Flax module, a preconditioning and a process make a denoiser.

The arithmetic around the network is float32, whatever the network computes in.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import domain
from kdiff_jax.diffusion import guidance
from kdiff_jax.diffusion import precondition as preconditions
from kdiff_jax.diffusion.process import Process, left
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Net


def make(
    module: Any,
    process: Process,
    *,
    precondition: str = "v",
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    cond_dim: int = 0,
    augment_dim: int = 0,
    space: str = "pixels",
    **keywords,
) -> Net:
    """x0_hat = c_skip x_t + c_out F(c_in x_t, c_noise, y).

    Args:
        module: F, called as module.apply({"params": params}, x, c_noise, y, *, augment,
            dropout_keys); images NHWC.
        process: Forward process that defines the time `t`.
        precondition: A name of `diffusion.precondition`.
        image_shape: (H, W, C) of one image.
        num_classes: Number of classes; 0 hides the labels from the network.
        cond_dim: Length of the vectors that it reads in place of labels; 0 for labels.
        augment_dim: Length of the augmentation label; 0 for a network without.
        space: Where images live, a name of `domain.SPACES`.
        keywords: Keywords of the preconditioning.
    """
    scalings_at = preconditions.make(precondition, process, **keywords)

    def labels(y):
        return y if num_classes else None

    conditions = domain.Conditions(num_classes, cond_dim)

    def init(key):
        return _init(module, key, tuple(image_shape), conditions, augment_dim)

    def run(params, x_t, scalings, y, method=None, **keywords):
        images = left(scalings.c_in, x_t) * x_t
        inputs = (images, scalings.c_noise, labels(y))
        return _run(module, method, params, *inputs, **keywords)

    def apply(params, x_t, t, y=None, *, dropout_keys=None, augment=None):
        scalings = scalings_at(t)
        more = dict(augment=augment, dropout_keys=dropout_keys)
        output = run(params, x_t, scalings, y, **more)
        return preconditions.combine(scalings, x_t, output)

    def with_features(params, x_t, t, y=None, *, dropout_keys=None, augment=None):
        scalings = scalings_at(t)
        more = dict(augment=augment, dropout_keys=dropout_keys)
        found = run(params, x_t, scalings, y, method="with_features", **more)
        return preconditions.combine(scalings, x_t, found[0]), found[1]

    def encode(params, x_t, t, y=None):
        return run(params, x_t, scalings_at(t), y, method="encode")

    return Net(
        init,
        apply,
        encode,
        tuple(image_shape),
        num_classes,
        with_features,
        getattr(module, "dtype", "float32"),
        domain.make_space(space, image_shape),
        cond_dim,
    )


# Traced once for all networks with these fields and calls of the same shapes: to trace
# a U-Net takes seconds, and what is checked before a run asks for it again and again.
@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _init(module, key, image_shape, conditions, augment_dim):
    x = jnp.zeros((1, *image_shape), jnp.float32)
    augment = jnp.zeros((1, augment_dim), jnp.float32) if augment_dim else None
    y = conditions.example(1) if conditions.num else None
    return module.init(key, x, jnp.zeros(1), y, augment=augment)["params"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(module, method, params, *inputs, **keywords):
    return module.apply({"params": params}, *inputs, method=method, **keywords)


def guided(
    net: Net,
    process: Process,
    scale: float | int,
    interval: guidance.Levels | None = None,
) -> Net:
    """A network with classifier-free guidance, as the teacher of a method.

    Its encoder and features are those of the label.

    Args:
        net: A denoiser that was trained with and without labels.
        process: Its forward process.
        scale: See `guidance.guide`; 1 is the network itself.
        interval: See `guidance.within`.

    Raises:
        ConfigError: If the network has no labels.
    """
    if scale == 1:
        return net
    if not net.num_classes:
        raise ConfigError(
            f"guidance={scale}: a network without classes has no label to be guided by;"
            " set guidance=1"
        )
    options: dict[str, Any] = dict(scale=scale, process=process, interval=interval)

    def apply(params, x_t, t, y, **keywords):
        def denoise(x_t, t, y, **keywords):
            return net.apply(params, x_t, t, y, **keywords)

        return guidance.guide(denoise, **options)(x_t, t, y, **keywords)

    def with_features(params, x_t, t, y, **keywords):
        found: Any = net.with_features
        labelled, features = found(params, x_t, t, y, **keywords)
        free = net.apply(params, x_t, t, guidance.null(y), **keywords)
        return guidance.mix(labelled, free, t, **options), features

    has_features = net.with_features is not None
    return net._replace(
        apply=apply, with_features=with_features if has_features else None
    )
