"""Distances between the features of two networks, each divided by its layer's size.

A student's features and a teacher's have the same pixels; the channels of `mse` must
agree too, the others' need not. No gradient flows into the teacher's.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.errors import ConfigError

EPS = 1e-12


def mse(
    student: Float[Array, "B H W C"], teacher: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """FitNet's hint: the mean of (student - teacher)^2 over pixels and channels.

    Args:
        student: Its features.
        teacher: The teacher's, of as many channels.

    Source: Romero et al. 2015, arXiv:1412.6550, Eq. 3.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import features
        >>> student, teacher = jnp.zeros((2, 4, 4, 8)), jnp.ones((2, 4, 4, 8))
        >>> features.mse(student, teacher).tolist()
        [1.0, 1.0]
    """
    target = jax.lax.stop_gradient(teacher.astype(jnp.float32))
    return jnp.mean((student.astype(jnp.float32) - target) ** 2, axis=(1, 2, 3))


def attention(
    student: Float[Array, "B H W C"], teacher: Float[Array, "B H W D"]
) -> Float[Array, " B"]:
    """Attention transfer: mean over pixels of (Q_s / |Q_s| - Q_t / |Q_t|)^2.

    Q is an image's map of the mean square over channels.

    Args:
        student: Its features.
        teacher: The teacher's, of as many pixels.

    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928, Eq. 2, and released code.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import features
        >>> student, teacher = jnp.ones((2, 4, 4, 8)), 3 * jnp.ones((2, 4, 4, 16))
        >>> bool((features.attention(student, teacher) < 1e-6).all())
        True
    """

    def unit(h):
        q = jnp.mean(h.astype(jnp.float32) ** 2, axis=-1).reshape(len(h), -1)
        return q * jax.lax.rsqrt(jnp.sum(q**2, axis=1, keepdims=True) + EPS)

    target = jax.lax.stop_gradient(unit(teacher))
    return jnp.mean((unit(student) - target) ** 2, axis=1)


def relational(
    student: Float[Array, "B H W C"],
    teacher: Float[Array, "B H W D"],
    *,
    group: int = 4,
) -> Float[Array, " B"]:
    """Relational distillation: Huber's loss of the distances between examples.

    Distances of the flattened features, divided by their mean. They are taken within
    groups of consecutive examples, so that a result does not depend on how a batch is
    split over devices. Each example has the mean over its pairs.

    Args:
        student: Features.
        teacher: Features.
        group: Examples of a group; divides B.

    Raises:
        ConfigError: If it does not.

    Source: Park et al. 2019, arXiv:1904.05068, Section 3.2.1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import features
        >>> student = jnp.arange(4.0)[:, None, None, None]
        >>> teacher = 5 * student  # as far from each other, in units of the mean
        >>> bool((features.relational(student, teacher) < 1e-6).all())
        True
    """
    if group < 2 or len(student) % group:
        raise ConfigError(
            f"relation_group={group}: must be at least 2 and divide the"
            f" {len(student)} images of a device's part of the batch"
        )
    target = jax.lax.stop_gradient(_distances(teacher, group))
    error = jnp.abs(_distances(student, group) - target)
    huber = jnp.where(error < 1, 0.5 * error**2, error - 0.5)
    return huber.sum(-1).reshape(-1) / (group - 1)


def _distances(h, group):
    """f32[B / group, group, group] with mean 1 off the diagonal, which is 0."""
    x = h.astype(jnp.float32).reshape(len(h) // group, group, -1)
    x = x - x.mean(1, keepdims=True)  # the products below then cancel less
    products = jnp.einsum("gid,gjd->gij", x, x, precision="highest")
    norms = jnp.diagonal(products, axis1=1, axis2=2)
    squares = norms[:, :, None] + norms[:, None, :] - 2 * products
    apart = 1 - jnp.eye(group)[None]
    distances = apart * jnp.sqrt(jnp.maximum(squares, EPS))
    mean = distances.sum((1, 2), keepdims=True) / (group * (group - 1))
    return distances / mean
