"""Distribution matching: moves a student's images by the difference of two scores.

Yin et al. 2024, DMD, arXiv:2311.18828, and DMD2, arXiv:2405.14867. A "denoise" is
(x_t, t) -> x0_hat with parameters and labels bound; `process` is a forward process.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import regression

WEIGHTS = ("normalized", "sigma", "sigma_cubed")


def gradient(
    real,
    fake,
    x: Float[Array, "B H W C"],
    t: Float[Array, " B"],
    eps: Float[Array, "B H W C"],
    *,
    process,
    weight: str = "normalized",
) -> Float[Array, "B H W C"]:
    """g: x - g is more likely under the teacher and less under the student.

    g = w (x0_fake - x0_real), both denoised from the same x_t, and w by name:

    - normalized: 1 / mean |x - x0_real|, the mean over an image (the authors' choice)
    - sigma: alpha / sigma, the paper's w_t = sigma / alpha
    - sigma_cubed: alpha sigma, the paper's w_t = sigma^3 / alpha

    No gradient flows through g; it is 0 where x = x0_real everywhere.

    Args:
        real: The teacher.
        fake: The denoiser of the student's images.
        x: Those images.
        t: Time to compare at, in the process' own.
        eps: Noise.
        process: Of both denoisers.
        weight: One of the names above.

    Source: arXiv:2311.18828, Eq. 7 and 8; the weights are compared in its ablation.
    """
    x = jax.lax.stop_gradient(x)
    x_t = process.add_noise(x, eps, t)
    x0_real, x0_fake = real(x_t, t), fake(x_t, t)
    if weight == "normalized":
        scale = jnp.mean(jnp.abs(x - x0_real), axis=(1, 2, 3))
        w = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    elif weight == "sigma":
        w = process.alpha(t) / process.sigma(t)
    elif weight == "sigma_cubed":
        w = process.alpha(t) * process.sigma(t)
    else:
        raise ConfigError(f"weight={weight!r}: unknown; choose one of {WEIGHTS}")
    return w[:, None, None, None] * (x0_fake - x0_real)


def surrogate(
    x: Float[Array, "B H W C"], g: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Half the mean of (x - target)^2, target = x - g: its gradient is g / (H W C).

    As a value, half the mean of g^2; it need not fall as the student improves.
    """
    target = jax.lax.stop_gradient(x - g)
    return 0.5 * regression.mse_per_example(x, target)


def fake_score(
    fake,
    x: Float[Array, "B H W C"],
    t: Float[Array, " B"],
    eps: Float[Array, "B H W C"],
    *,
    process,
    weight: str = "edm",
) -> Float[Array, " B"]:
    """weight(logsnr_t) mean (x0_hat - x)^2: the fake score learns the student's images.

    Args:
        fake: The denoiser that is trained.
        x: The student's images.
        t: Time.
        eps: Noise.
        process: Of the denoiser.
        weight: See `regression.weight`; that of the teacher's own training.

    Source: arXiv:2311.18828, Eq. 6.
    """
    x = jax.lax.stop_gradient(x)
    error = regression.mse_per_example(fake(process.add_noise(x, eps, t), t), x)
    return regression.weight(weight, process.logsnr(t)) * error
