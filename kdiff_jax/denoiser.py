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
from kdiff_jax.diffusion.process import Process, broadcast_left
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
    reader: domain.Reader | None = None,
    augment_dim: int = 0,
    guidance_range: tuple[float | int, float | int] | None = None,
    space: domain.Space | str = "pixels",
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
        reader: What makes texts of the rows of a table; None where it reads single
            vectors, or labels.
        augment_dim: Length of the augmentation label; 0 for a network without.
        guidance_range: (low, high) of the strengths of guidance that it reads; None for
            a network that reads none.
        space: Where images live, or a name of `domain.SPACES`.
        **keywords: Keywords of the preconditioning.

    Returns:
        Pure functions: `init`, key -> params, and `apply`, (params, x_t, t, y) ->
        x0_hat, with f32[B, H, W, C] images, f32[B] times of the process and the
        conditions y, i32[B] labels, or vectors.

    Raises:
        ConfigError: If there is no such preconditioning or space, or a keyword is not
            one of its.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import denoiser, networks
        >>> from kdiff_jax.diffusion.process import edm
        >>> mlp = networks.make("mlp", channels=8, out_channels=2, num_classes=4)
        >>> shape = dict(image_shape=(1, 1, 2), num_classes=4)
        >>> net = denoiser.make(mlp, edm(), precondition="edm", **shape)
        >>> params, x_t = net.init(jax.random.key(0)), jnp.zeros((3, 1, 1, 2))
        >>> net.apply(params, x_t, jnp.full(3, 80.0), jnp.arange(3)).shape
        (3, 1, 1, 2)
    """
    scalings_at = preconditions.make(precondition, process, **keywords)

    conditions = domain.Conditions(num_classes, cond_dim, reader)

    def labels(y):
        return domain.as_read(y) if num_classes or reader else None

    def init(key):
        shape, reads = tuple(image_shape), bool(guidance_range)
        return _init(module, key, shape, conditions, augment_dim, reads)

    def run(params, x_t, scalings, y, method=None, guidance=None, **keywords):
        images = broadcast_left(scalings.c_in, x_t) * x_t
        inputs = (images, scalings.c_noise, labels(y))
        if guidance_range:
            keywords["guidance"] = jnp.ones(len(x_t)) if guidance is None else guidance
        return _run(module, method, params, *inputs, **keywords)

    # Keywords that are None are passed as well: calls are then traced as one.
    def apply(params, x_t, t, y=None, *, dropout_keys=None, augment=None, **told):
        scalings = scalings_at(t)
        more = dict(augment=augment, dropout_keys=dropout_keys, **told)
        output = run(params, x_t, scalings, y, **more)
        return preconditions.combine(scalings, x_t, output)

    def with_features(
        params, x_t, t, y=None, *, dropout_keys=None, augment=None, **told
    ):
        scalings = scalings_at(t)
        more = dict(augment=augment, dropout_keys=dropout_keys, **told)
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
        domain.make_space(space, image_shape) if isinstance(space, str) else space,
        cond_dim,
        guidance_range,
        reader,
    )


# Traced once for all networks with these fields and calls of the same shapes: to trace
# a U-Net takes seconds, and what is checked before a run asks for it again and again.
@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4, 5))
def _init(module, key, image_shape, conditions, augment_dim, reads_guidance):
    x = jnp.zeros((1, *image_shape), jnp.float32)
    augment = jnp.zeros((1, augment_dim), jnp.float32) if augment_dim else None
    # A network that may be asked for any text knows itself what parts that has.
    y = domain.as_read(conditions.example(1)) if conditions.num else None
    more = dict(guidance=jnp.ones(1)) if reads_guidance else {}
    return module.init(key, x, jnp.zeros(1), y, augment=augment, **more)["params"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(module, method, params, *inputs, **keywords):
    return module.apply({"params": params}, *inputs, method=method, **keywords)


def guided(
    net: Net,
    process: Process,
    scale: guidance.Scale,
    interval: guidance.Levels | None = None,
) -> Net:
    """A network with classifier-free guidance, as the teacher of a method.

    One that reads the strength is told it. Its encoder and features are those of the
    label.

    Args:
        net: A denoiser that was trained with and without labels, or reads the strength.
        process: Its forward process.
        scale: See `guidance.guide`; 1 is the network itself.
        interval: See `guidance.within`.

    Raises:
        ConfigError: If the network has no labels, or reads the strength and was not
            made for this one.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import denoiser, networks
        >>> from kdiff_jax.diffusion.process import edm
        >>> mlp = networks.make("mlp", channels=8, out_channels=2, num_classes=4)
        >>> shape = dict(image_shape=(1, 1, 2), num_classes=4)
        >>> net = denoiser.make(mlp, edm(), precondition="edm", **shape)
        >>> params, x_t = net.init(jax.random.key(0)), jnp.zeros((3, 1, 1, 2))
        >>> strong = denoiser.guided(net, edm(), 2.0, interval=(0.2, 1.0))
        >>> strong.apply(params, x_t, jnp.full(3, 0.5), jnp.arange(3)).shape
        (3, 1, 1, 2)
    """
    if net.guidance_range:
        return _at_strength(net, scale, interval)
    if guidance.is_none(scale):
        return net
    _check_labels(net, f"guidance={scale}", "guidance=1")
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


def _at_strength(
    net: Net, scale: guidance.Scale, interval: guidance.Levels | None
) -> Net:
    """A network that reads its guidance, at one strength."""
    assert net.guidance_range
    guidance.check_told(scale, net.guidance_range, interval)

    def strength(x_t):
        return {"guidance": jnp.broadcast_to(jnp.float32(scale), (len(x_t),))}

    def apply(params, x_t, t, y, **keywords):
        return net.apply(params, x_t, t, y, **strength(x_t), **keywords)

    def with_features(params, x_t, t, y, **keywords):
        found: Any = net.with_features
        return found(params, x_t, t, y, **strength(x_t), **keywords)

    return net._replace(
        apply=apply, with_features=with_features if net.with_features else None
    )


def check_drawn(
    student: Net,
    teacher: Net,
    scale: float | int,
    interval: guidance.Levels | None = None,
) -> None:
    """Whether a method can draw the strength that a student reads, if it reads one.

    Raises:
        ConfigError: If the method has one of its own, or the teacher cannot be guided.
    """
    if not (levels := student.guidance_range):
        return
    low, high = levels
    name = f"guidance_range=({low:g}, {high:g})"
    if not guidance.is_none(scale):
        raise ConfigError(
            f"guidance={scale}: the student reads its guidance, drawn from {name};"
            " leave it at 1"
        )
    _check_labels(teacher, name, "none")
    if teacher.guidance_range:
        for end in levels:
            guidance.check_told(end, teacher.guidance_range, interval)


def _check_labels(net: Net, what: str, way_out: str) -> None:
    if not (net.num_classes or net.reader):
        raise ConfigError(
            f"{what}: a network without classes has no label to be guided by; set"
            f" {way_out}"
        )
