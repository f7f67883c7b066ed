"""Divergences of Gaussians whose entries are independent."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl_to_normal_per_example(
    mean: Float[Array, "B ..."], logvar: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """KL(N(mean, exp(logvar)) || N(0, I)) in nats, summed over the entries.

    (mean^2 + exp(logvar) - 1 - logvar) / 2

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    entries = (mean**2 + jnp.exp(logvar) - 1 - logvar) / 2
    return entries.sum(axis=tuple(range(1, mean.ndim)))
