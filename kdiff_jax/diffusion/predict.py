"""x0 <-> eps <-> v <-> score, one function per arrow.

x_t = alpha x0 + sigma eps;  v = alpha eps - sigma x0;  score = -eps / sigma

`alpha` and `sigma` are f32[B]. The arrows to or from v hold for alpha^2 + sigma^2 = 1.

Accuracy in float32, inputs of order 1 (rounding unit u = 6e-8): an arrow that divides
by alpha, sigma or sigma^2 carries an error of a few u over that divisor, because its
inputs are themselves rounded; no arrow does worse, and those that divide by nothing (to
x0 or eps from v, to x0 from both) err by a few u at every SNR. So eps of a cosine
process at its data end, where sigma = 4.5e-5, is good to 5e-3 and no formula can do
better; steps between times use `Process.ddim_step`, which forms no such eps.
"""

from jaxtyping import Array, Float

from kdiff_jax.diffusion.process import broadcast_left

Image = Float[Array, "B H W C"]
Factor = Float[Array, " B"]


def x0_from_eps(x_t: Image, eps: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """x0 = (x_t - sigma eps) / alpha."""
    return (x_t - broadcast_left(sigma, x_t) * eps) / broadcast_left(alpha, x_t)


def x0_from_v(x_t: Image, v: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """x0 = alpha x_t - sigma v (Salimans & Ho 2022, Section 4)."""
    return broadcast_left(alpha, x_t) * x_t - broadcast_left(sigma, x_t) * v


def x0_from_score(x_t: Image, score: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """x0 = (x_t + sigma^2 score) / alpha (Tweedie)."""
    return (x_t + broadcast_left(sigma**2, x_t) * score) / broadcast_left(alpha, x_t)


def x0_from_both(
    x_t: Image, x0: Image, eps: Image, *, alpha: Factor, sigma: Factor
) -> Image:
    """x0 = sigma^2 x0~ + alpha (x_t - sigma eps~): each output where it is the better.

    Source: Salimans & Ho 2022, Section 4, "predicting both".
    """
    rest = x_t - broadcast_left(sigma, x_t) * eps
    return broadcast_left(sigma**2, x_t) * x0 + broadcast_left(alpha, x_t) * rest


def eps_from_x0(x_t: Image, x0: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """eps = (x_t - alpha x0) / sigma."""
    return (x_t - broadcast_left(alpha, x_t) * x0) / broadcast_left(sigma, x_t)


def eps_from_v(x_t: Image, v: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """eps = sigma x_t + alpha v."""
    return broadcast_left(sigma, x_t) * x_t + broadcast_left(alpha, x_t) * v


def eps_from_score(x_t: Image, score: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """eps = -sigma score."""
    del alpha  # one signature for every arrow
    return -broadcast_left(sigma, x_t) * score


def v_from_x0(x_t: Image, x0: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """v = (alpha x_t - x0) / sigma."""
    return (broadcast_left(alpha, x_t) * x_t - x0) / broadcast_left(sigma, x_t)


def v_from_eps(x_t: Image, eps: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """v = (eps - sigma x_t) / alpha."""
    return (eps - broadcast_left(sigma, x_t) * x_t) / broadcast_left(alpha, x_t)


def v_from_score(x_t: Image, score: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """v = -sigma (score + x_t) / alpha."""
    return -broadcast_left(sigma / alpha, x_t) * (score + x_t)


def score_from_x0(x_t: Image, x0: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """score = (alpha x0 - x_t) / sigma^2."""
    return (broadcast_left(alpha, x_t) * x0 - x_t) / broadcast_left(sigma**2, x_t)


def score_from_eps(x_t: Image, eps: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """score = -eps / sigma."""
    del alpha  # one signature for every arrow
    return -eps / broadcast_left(sigma, x_t)


def score_from_v(x_t: Image, v: Image, *, alpha: Factor, sigma: Factor) -> Image:
    """score = -(x_t + (alpha / sigma) v)."""
    return -(x_t + broadcast_left(alpha / sigma, x_t) * v)
