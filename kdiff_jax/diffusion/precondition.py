"""What goes into a network F and how its output becomes x0_hat.

x0_hat = c_skip x_t + c_out F(c_in x_t, c_noise)

A preconditioning is a function t -> Scalings; `combine` applies one to an output.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdiff_jax import arguments, registry
from kdiff_jax.arguments import Count, NotNegative, Positive
from kdiff_jax.diffusion.noise_levels import iddpm_levels
from kdiff_jax.diffusion.process import Process, broadcast_left
from kdiff_jax.errors import ConfigError


class Scalings(NamedTuple):
    """The factors at some times; x0_hat = c_skip x_t + c_out F(c_in x_t, c_noise).

    `c_out_eps` is there when F has a second half of channels that counts:
    x0_hat = c_skip x_t + c_out F_1 + c_out_eps F_2.

    Attributes:
        c_skip: Factor of x_t.
        c_out: Factor of F's output.
        c_in: Factor of F's input.
        c_noise: What F is told of the time.
        c_out_eps: Factor of the second half of F's output, or None.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import precondition, process
        >>> at = precondition.make("x", process.cosine())  # F predicts x0
        >>> scalings = at(jnp.full(2, 0.5))
        >>> scalings.c_skip.tolist(), scalings.c_out.tolist()
        ([0.0, 0.0], [1.0, 1.0])
    """

    c_skip: Float[Array, " B"]
    c_out: Float[Array, " B"]
    c_in: Float[Array, " B"]
    c_noise: Float[Array, " B"]
    c_out_eps: Float[Array, " B"] | None = None


Preconditioning = Callable[[Float[Array, " B"]], Scalings]


def combine(
    scalings: Scalings, x_t: Float[Array, "B H W C"], output: Float[Array, "B H W D"]
) -> Float[Array, "B H W C"]:
    """x0_hat from the output of F. Channels of F that are not asked for are ignored."""
    num_channels = x_t.shape[-1]
    x0_hat = broadcast_left(scalings.c_skip, x_t) * x_t
    x0_hat += broadcast_left(scalings.c_out, x_t) * output[..., :num_channels]
    if scalings.c_out_eps is not None:
        second = output[..., num_channels : 2 * num_channels]
        x0_hat += broadcast_left(scalings.c_out_eps, x_t) * second
    return x0_hat


def edm(process: Process, *, sigma_data: Positive = 0.5) -> Preconditioning:
    """Unit variance of F's input and target at every noise level.

    With sigma = sigma(t) / alpha(t), d = sigma_data, for alpha = 1: c_skip =
    d^2 / (sigma^2 + d^2), c_out = sigma d / sqrt(sigma^2 + d^2), c_in =
    1 / sqrt(sigma^2 + d^2), c_noise = log(sigma) / 4.

    Args:
        process: Any forward process; one with alpha != 1 is rescaled to x_t / alpha.
        sigma_data: Standard deviation of the data.

    Source: Karras et al. 2022, arXiv:2206.00364, Table 1.
    """

    def scalings(t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        variance = sigma**2 + (alpha * sigma_data) ** 2
        return Scalings(
            c_skip=alpha * sigma_data**2 / variance,
            c_out=sigma * sigma_data / jnp.sqrt(variance),
            c_in=1 / jnp.sqrt(variance),
            c_noise=-process.logsnr(t) / 8,
        )

    return scalings


def boundary(
    process: Process,
    *,
    sigma_min: NotNegative = 0.002,
    sigma_data: Positive = 0.5,
    c_noise_scale: Positive = 1.0,
) -> Preconditioning:
    """EDM's wrapper, moved so that x0_hat = x_t at sigma_min: consistency models'.

    With d = sigma_data and t = sigma: c_skip = d^2 / ((sigma - sigma_min)^2 + d^2),
    c_out = (sigma - sigma_min) d / sqrt(sigma^2 + d^2); the others are `edm`'s.

    Source: Song et al. 2023, arXiv:2303.01469, appendix C; at the one level 80, the
    generator of Zheng & Yang 2024, arXiv:2405.20750.
    """

    def of_sigma(sigma):
        above = sigma - sigma_min
        scale = jnp.sqrt(sigma**2 + sigma_data**2)
        return Scalings(
            c_skip=sigma_data**2 / (above**2 + sigma_data**2),
            c_out=above * sigma_data / scale,
            c_in=1 / scale,
            c_noise=c_noise_scale * jnp.log(sigma) / 4,
        )

    return _rescaled(process, of_sigma)


def vp(
    process: Process,
    *,
    beta_d: Positive = 19.9,
    beta_min: NotNegative = 0.1,
    num_timesteps: Count = 1000,
) -> Preconditioning:
    """EDM's wrapper of a variance-preserving eps-network; t = sigma.

    c_noise = (M - 1) t', where sigma^2 = exp(beta_d t'^2 / 2 + beta_min t') - 1.

    Source: Karras et al. 2022, Table 1, column "VP".
    """

    def of_sigma(sigma):
        inverse = jnp.sqrt(beta_min**2 + 2 * beta_d * jnp.log1p(sigma**2))
        return Scalings(
            c_skip=jnp.ones_like(sigma),
            c_out=-sigma,
            c_in=1 / jnp.sqrt(sigma**2 + 1),
            c_noise=(num_timesteps - 1) * (inverse - beta_min) / beta_d,
        )

    return _rescaled(process, of_sigma)


def ve(process: Process) -> Preconditioning:
    """EDM's wrapper of a variance-exploding network; t = sigma, c_noise = log(sigma/2).

    Source: Karras et al. 2022, Table 1, column "VE".
    """

    def of_sigma(sigma):
        one = jnp.ones_like(sigma)
        return Scalings(c_skip=one, c_out=sigma, c_in=one, c_noise=jnp.log(sigma / 2))

    return _rescaled(process, of_sigma)


def iddpm(
    process: Process,
    *,
    C_1: Positive = 0.001,
    C_2: Positive = 0.008,
    num_timesteps: Count = 1000,
) -> Preconditioning:
    """EDM's wrapper of an improved-DDPM eps-network; t = sigma.

    c_noise = M - 1 - argmin_j |u_j - sigma|, the index of the nearest trained level;
    the second half of the network's channels is ignored.

    Source: Karras et al. 2022, Table 1, column "iDDPM".
    """
    levels = iddpm_levels(C_1=C_1, C_2=C_2, num_timesteps=num_timesteps)

    def of_sigma(sigma):
        distance = jnp.abs(jnp.asarray(levels, sigma.dtype)[None] - sigma[:, None])
        index = jnp.argmin(distance, axis=1)
        return Scalings(
            c_skip=jnp.ones_like(sigma),
            c_out=-sigma,
            c_in=1 / jnp.sqrt(sigma**2 + 1),
            c_noise=(num_timesteps - 1 - index).astype(sigma.dtype),
        )

    return _rescaled(process, of_sigma)


def x(process: Process) -> Preconditioning:
    """The network predicts x0."""
    return _plain(process, lambda a, s: (jnp.zeros_like(a), jnp.ones_like(a)))


def eps(process: Process) -> Preconditioning:
    """The network predicts eps: x0_hat = (x_t - sigma F) / alpha."""
    return _plain(process, lambda a, s: (1 / a, -s / a))


def v(process: Process) -> Preconditioning:
    """The network predicts v: x0_hat = alpha x_t - sigma F (alpha^2 + sigma^2 = 1)."""
    return _plain(process, lambda a, s: (a, -s))


def velocity(process: Process, *, data_at: Literal[0, 1] = 0) -> Preconditioning:
    """The network predicts a velocity of the straight process `flow`.

    Args:
        process: `flow`.
        data_at: The network's own time of the data. 0: it is told t and predicts eps -
            x0, so that x0_hat = x_t - t F. 1, as SiT: it is told 1 - t and predicts x0
            - eps, so that x0_hat = x_t + t F.

    Raises:
        ConfigError: If the process is another.
    """
    if not process.straight:
        raise ConfigError(
            "precondition='velocity': is for the process 'flow'; take that, or 'v'"
        )

    def scalings(t):
        one = jnp.ones_like(t)
        told, sign = (1 - t, 1) if data_at else (t, -1)
        return Scalings(c_skip=one, c_out=sign * t, c_in=one, c_noise=told)

    return scalings


def residual(process: Process) -> Preconditioning:
    """x0_hat = x_t - F: the student of Luhman & Luhman 2021, arXiv:2101.02388."""
    return _plain(process, lambda a, s: (jnp.ones_like(a), -jnp.ones_like(a)))


def both(process: Process) -> Preconditioning:
    """Two halves of channels: x0_hat = sigma^2 F_1 + alpha (x_t - sigma F_2).

    Source: Salimans & Ho 2022, arXiv:2202.00512, Section 4.
    """
    return _plain(process, lambda a, s: (a, s**2, -a * s))


def _plain(process, factors) -> Preconditioning:
    """A network that sees x_t as it is and is told the process' own c_noise."""

    def scalings(t):
        c_skip, c_out, *more = factors(process.alpha(t), process.sigma(t))
        return Scalings(c_skip, c_out, jnp.ones_like(t), process.c_noise(t), *more)

    return scalings


def _rescaled(process, of_sigma) -> Preconditioning:
    """EDM's wrappers are written for alpha = 1: x_t / alpha has noise sigma / alpha."""

    def scalings(t):
        alpha = process.alpha(t)
        inner = of_sigma(process.sigma(t) / alpha)
        return inner._replace(c_skip=inner.c_skip / alpha, c_in=inner.c_in / alpha)

    return scalings


PRECONDITIONINGS = {
    "edm": edm,
    "boundary": boundary,
    "vp": vp,
    "ve": ve,
    "iddpm": iddpm,
    "x": x,
    "eps": eps,
    "v": v,
    "velocity": velocity,
    "residual": residual,
    "both": both,
}


def names() -> tuple[str, ...]:
    """The preconditionings that `make` knows.

    Examples:
        >>> from kdiff_jax.diffusion import precondition
        >>> {"edm", "eps", "v", "x"} <= set(precondition.names())
        True
    """
    return tuple(PRECONDITIONINGS)


def make(name: str, process: Process, **keywords) -> Preconditioning:
    """The preconditioning `name`, one of `names()`, as a function t -> Scalings.

    Args:
        name: "x", "eps" or "v", what the network predicts; "velocity", eps - x0;
            "edm", "vp", "ve" or "iddpm", those of Karras et al. 2022; "boundary", of
            consistency models; "residual", x_t - eps; "both", x0 and eps.
        process: Forward process, whose times are t.
        **keywords: Keywords of the preconditioning.

    Raises:
        ConfigError: If there is no such preconditioning, or a keyword is not one of its
            or out of range.

    Source: Karras et al. 2022, arXiv:2206.00364, Table 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import precondition, process
        >>> at = precondition.make("edm", process.edm(), sigma_data=0.5)
        >>> round(float(at(jnp.full(1, 0.5)).c_skip[0]), 4)
        0.5
    """
    function = make_function(name)
    given = {"process": process, **keywords}
    arguments.check(function, given, what=f"precondition {name!r}")
    return function(**given)


def make_function(name: str) -> Callable[..., Preconditioning]:
    """What `make` calls; its keywords and defaults are the preconditioning's."""
    return registry.entry(PRECONDITIONINGS, name, what="precondition")
