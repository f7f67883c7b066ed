"""Losses of a generator and its discriminator, from the discriminator's logits.

High logits mean "real". Logits are f32[B, ...]: an example may have several, which
count equally; how the f32[B] of a batch is reduced is the method's choice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import registry

LOSSES = ("nonsaturating", "hinge")


def generator(name: str, logits_fake: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """What the generator minimises, the mean over the logits of an example.

    - nonsaturating: softplus(-logits_fake)
    - hinge: -logits_fake

    Args:
        name: One of the names above.
        logits_fake: Discriminator logits of generated images.

    Raises:
        ConfigError: If there is no such loss.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, Section 3; Lim & Ye 2017,
    arXiv:1705.02894.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import adversarial
        >>> adversarial.generator("hinge", jnp.array([[1.0, 2.0], [0.0, 0.0]])).tolist()
        [-1.5, 0.0]
    """
    if name == "nonsaturating":
        return _mean(jax.nn.softplus(-logits_fake))
    if name == "hinge":
        return _mean(-logits_fake)
    raise registry.unknown("loss", name, LOSSES)


def discriminator(
    name: str, logits_real: Float[Array, "B ..."], logits_fake: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """What the discriminator minimises, the mean over the logits of an example.

    - nonsaturating: softplus(-logits_real) + softplus(logits_fake)
    - hinge: max(1 - logits_real, 0) + max(1 + logits_fake, 0)

    Args:
        name: One of the names above.
        logits_real: Discriminator logits of real images.
        logits_fake: Discriminator logits of generated images; as many examples as
            `logits_real`, since the two terms are added per example.

    Raises:
        ConfigError: If there is no such loss.

    Source: see `generator`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import adversarial
        >>> real, fake = jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [-2.0]])
        >>> adversarial.discriminator("hinge", real, fake).tolist()
        [2.0, 0.0]
    """
    if name == "nonsaturating":
        return _mean(jax.nn.softplus(-logits_real)) + _mean(
            jax.nn.softplus(logits_fake)
        )
    if name == "hinge":
        return _mean(jax.nn.relu(1 - logits_real)) + _mean(jax.nn.relu(1 + logits_fake))
    raise registry.unknown("loss", name, LOSSES)


def r1(logits_fn: Callable[[Any], Array], x: Any) -> Float[Array, " B"]:
    """||grad_x sum of logits||^2 of each example, without a weight.

    Args:
        logits_fn: Images -> logits; every logit of the batch is in the sum, so that
            examples that meet in a batch norm share their gradient.
        x: Real images, or several views of each, a tree of arrays [B, ...].

    Returns:
        f32[B].

    Source: Mescheder et al. 2018, arXiv:1801.04406, Eq. 9.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import adversarial
        >>> def logits(x):
        ...     return 2 * x.sum(axis=(1, 2, 3))
        >>> adversarial.r1(logits, jnp.zeros((2, 4, 4, 3))).tolist()  # 48 slopes of 2
        [192.0, 192.0]
    """
    gradient = jax.grad(lambda images: logits_fn(images).sum())(x)
    squares = [
        (g**2).sum(axis=tuple(range(1, g.ndim))) for g in jax.tree.leaves(gradient)
    ]
    return jnp.stack(squares).sum(axis=0)


def _mean(values):
    return values.mean(axis=tuple(range(1, values.ndim)))
