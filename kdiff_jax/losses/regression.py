"""Regression of images: weights on ||x0 - x0_hat||^2, and per-example reductions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import registry

WEIGHTS = ("constant", "snr", "snr_trunc", "v_mse", "edm", "inverse_variance")


def weight(
    name: str, logsnr: Float[Array, " B"], *, sigma_data: float = 0.5
) -> Float[Array, " B"]:
    """Weight on ||x0 - x0_hat||^2 at a log signal-to-noise ratio.

    With SNR = alpha^2 / sigma^2 = exp(logsnr):

    - constant: 1
    - snr: SNR, the loss on eps
    - snr_trunc: max(SNR, 1)
    - v_mse: SNR + 1, the loss on v
    - edm: (sigma^2 + d^2) / (sigma d)^2 = SNR + 1/d^2, where d = sigma_data
    - inverse_variance: 1/sigma^2 = SNR for alpha = 1, the VP and VE losses of EDM

    Args:
        name: One of the names above.
        logsnr: 2 log(alpha / sigma).
        sigma_data: Standard deviation of the data, read by "edm" alone.

    Raises:
        ConfigError: If there is no such weight.

    Source: Salimans & Ho 2022, arXiv:2202.00512, Section 4; Karras et al. 2022,
    arXiv:2206.00364, Table 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import regression
        >>> regression.weight("edm", jnp.zeros(2)).tolist()  # alpha = sigma
        [5.0, 5.0]
    """
    snr = jnp.exp(logsnr)
    if name == "constant":
        return jnp.ones_like(logsnr)
    if name in ("snr", "inverse_variance"):
        return snr
    if name == "snr_trunc":
        return jnp.exp(jax.nn.relu(logsnr))
    if name == "v_mse":
        return snr + 1
    if name == "edm":
        return snr + 1 / sigma_data**2
    raise registry.unknown("weight", name, WEIGHTS)


def mse_per_example(
    x: Float[Array, "B H W C"], target: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Mean over pixels and channels of (x - target)^2.

    Args:
        x: f32[B, H, W, C].
        target: The same of what it should be.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import regression
        >>> x, target = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
        >>> regression.mse_per_example(x, target).tolist()
        [0.25, 0.25]
    """
    return jnp.mean((x - target) ** 2, axis=(1, 2, 3))


def l1_per_example(
    x: Float[Array, "B H W C"], target: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Mean over pixels and channels of |x - target|.

    Args:
        x: f32[B, H, W, C].
        target: The same of what it should be.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import regression
        >>> x, target = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
        >>> regression.l1_per_example(x, target).tolist()
        [0.5, 0.5]
    """
    return jnp.mean(jnp.abs(x - target), axis=(1, 2, 3))


def l1_sum_per_example(
    x: Float[Array, "B H W C"], target: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Sum over pixels and channels of |x - target| (Luhman & Luhman 2021, CIFAR-10).

    Args:
        x: f32[B, H, W, C].
        target: The same of what it should be.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import regression
        >>> x, target = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
        >>> regression.l1_sum_per_example(x, target).tolist()
        [24.0, 24.0]
    """
    return jnp.sum(jnp.abs(x - target), axis=(1, 2, 3))


def l2_sum_per_example(
    x: Float[Array, "B H W C"], target: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Sum over pixels and channels of (x - target)^2, without a factor 1/2.

    Args:
        x: f32[B, H, W, C].
        target: The same of what it should be.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import regression
        >>> x, target = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
        >>> regression.l2_sum_per_example(x, target).tolist()
        [12.0, 12.0]
    """
    return jnp.sum((x - target) ** 2, axis=(1, 2, 3))
