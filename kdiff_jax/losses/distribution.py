"""Distribution matching: moves a student's images by the difference of two scores.

Yin et al. 2024, DMD, arXiv:2311.18828, and DMD2, arXiv:2405.14867. A "denoise" is
(x_t, t) -> x0_hat with parameters and labels bound; `process` is a forward process.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import registry
from kdiff_jax.losses import regression

WEIGHTS = ("normalized", "sigma", "sigma_cubed")

# h(r) = f''(r) r^2 of the divergences E_q[f(p / q)], p the data and q the student.
DIVERGENCES = {
    "reverse_kl": jnp.ones_like,
    "forward_kl": lambda r: r,
    "jensen_shannon": lambda r: r / (1 + r),
    "softened_reverse_kl": lambda r: 1 / (1 + r),
    "squared_hellinger": lambda r: jnp.sqrt(r) / 2,
    "jeffreys": lambda r: 1 + r,
}
# So that one confident logit does not carry a whole batch. The bounds are ours.
RATIO_MIN, RATIO_MAX = 0.1, 10.0


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
        process: Forward process of both denoisers.
        weight: One of the names above.

    Raises:
        ConfigError: If there is no such weight.

    Source: arXiv:2311.18828, Eq. 7 and 8; the weights are compared in its ablation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.losses import distribution
        >>> def real(x_t, t):
        ...     return jnp.full_like(x_t, 1.0)
        >>> def fake(x_t, t):
        ...     return jnp.full_like(x_t, 0.5)
        >>> x, t = jnp.zeros((2, 4, 4, 3)), jnp.full(2, 0.5)
        >>> eps = jnp.ones_like(x)
        >>> g = distribution.gradient(real, fake, x, t, eps, process=cosine())
        >>> float(g.min()), float(g.max())
        (-0.5, -0.5)
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
        raise registry.unknown("weight", weight, WEIGHTS)
    return w[:, None, None, None] * (x0_fake - x0_real)


def divergence_weight(name: str, logits: Float[Array, " B"]) -> Float[Array, " B"]:
    """h(r), by which `gradient` is multiplied to follow another divergence.

    With f(r), r = p / q:

    - reverse_kl: -log r, h = 1: that of `gradient` itself
    - forward_kl: r log r, h = r
    - jensen_shannon: r log r - (r + 1) log((r + 1) / 2), h = r / (1 + r)
    - softened_reverse_kl: (r + 1) log((r + 1) / (2 r)), h = 1 / (1 + r)
    - squared_hellinger: (1 - sqrt r)^2, h = sqrt(r) / 2
    - jeffreys: (r - 1) log r, h = r + 1

    No gradient flows through h. A method divides it by its mean over the global batch.

    Args:
        name: One of the names above.
        logits: Logits of a discriminator of x_t; they equal log r where it is optimal.
            r is clipped to [RATIO_MIN, RATIO_MAX].

    Returns:
        f32[B], above 0.

    Raises:
        ConfigError: If there is no such divergence.

    Source: Xu et al. 2025, arXiv:2502.15681, Theorem 1 and Table 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import distribution
        >>> distribution.divergence_weight("jensen_shannon", jnp.zeros(2)).tolist()
        [0.5, 0.5]
    """
    if name not in DIVERGENCES:
        raise registry.unknown("f_divergence", name, DIVERGENCES)
    low, high = jnp.log(RATIO_MIN), jnp.log(RATIO_MAX)
    r = jnp.exp(jnp.clip(jax.lax.stop_gradient(logits), low, high))
    return DIVERGENCES[name](r)


def score_identity(
    real,
    fake,
    x: Float[Array, "B H W C"],
    t: Float[Array, " B"],
    eps: Float[Array, "B H W C"],
    *,
    process,
    alpha: float = 1.0,
) -> Float[Array, " B"]:
    """SiD's loss: w sum(d ((x0_real - x) - alpha d)), d = x0_real - x0_fake.

    Both are denoised from the same x_t. Gradients flow into x directly and through x_t
    and both networks; none through w = 1 / mean |x - x0_real|, at most 10^5.

    By the score identities the expectation of d (x0_real - x) is that of d^2 where
    `fake` is exact, so that the value is (1 - alpha) d^2; its gradient is not that of
    (1 - alpha) d^2, as `fake` is held fixed.

    Args:
        real: The teacher.
        fake: The denoiser of the student's images.
        x: Those images.
        t: Time to compare at.
        eps: Noise.
        process: Forward process of both denoisers.
        alpha: Weight of d^2.

    Source: Zhou et al. 2024, arXiv:2404.04057, Section 3, and released code.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.losses import distribution
        >>> def real(x_t, t):
        ...     return jnp.full_like(x_t, 1.0)
        >>> def fake(x_t, t):
        ...     return jnp.full_like(x_t, 0.5)
        >>> x, t = jnp.zeros((2, 4, 4, 3)), jnp.full(2, 0.5)
        >>> eps = jnp.ones_like(x)
        >>> loss = distribution.score_identity(real, fake, x, t, eps, process=cosine())
        >>> loss.tolist()  # 48 numbers of 0.5 (1 - 0 - 0.5)
        [12.0, 12.0]
    """
    x_t = process.add_noise(x, eps, t)
    x0_real, x0_fake = real(x_t, t), fake(x_t, t)
    scale = jnp.mean(jnp.abs(x - x0_real), axis=(1, 2, 3))
    w = 1 / jnp.maximum(jax.lax.stop_gradient(scale), 1e-5)
    d = x0_real - x0_fake
    return w * jnp.sum(d * (x0_real - x - alpha * d), axis=(1, 2, 3))


def surrogate(
    x: Float[Array, "B H W C"], g: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Half the mean of (x - target)^2, target = x - g: its gradient is g / (H W C).

    As a value, half the mean of g^2; it need not fall as the student improves.

    Args:
        x: The student's images.
        g: What `gradient` gives.

    Source: arXiv:2311.18828, Algorithm 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.losses import distribution
        >>> x, g = jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))
        >>> slope = jax.grad(lambda x: distribution.surrogate(x, g).sum())(x)
        >>> float(slope.min()), float(slope.max())
        (0.25, 0.25)
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
        process: Forward process of the denoiser.
        weight: See `regression.weight`; that of the teacher's own training.

    Raises:
        ConfigError: If there is no such weight.

    Source: arXiv:2311.18828, Eq. 6.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.losses import distribution
        >>> def real(x_t, t):
        ...     return jnp.full_like(x_t, 1.0)
        >>> def fake(x_t, t):
        ...     return jnp.full_like(x_t, 0.5)
        >>> x, t = jnp.zeros((2, 4, 4, 3)), jnp.full(2, 0.5)
        >>> options = dict(process=cosine(), weight="constant")
        >>> distribution.fake_score(fake, x, t, jnp.ones_like(x), **options).tolist()
        [0.25, 0.25]
    """
    x = jax.lax.stop_gradient(x)
    error = regression.mse_per_example(fake(process.add_noise(x, eps, t), t), x)
    return regression.weight(weight, process.logsnr(t)) * error
