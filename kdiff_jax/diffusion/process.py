"""The forward process x_t = alpha(t) x0 + sigma(t) eps: schedules, and moves on them.

Every process has its own time: `cosine` and `flow` t in [0, 1], `discrete` an index,
`edm` the noise level itself. 0 is the data. What a network says about x_t is the matter
of `predict` and `precondition`.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax import arguments, registry
from kdiff_jax.arguments import Below1, Count, Positive, Range
from kdiff_jax.diffusion.noise_levels import (
    iddpm_levels,
    loguniform,
    loguniform_cdf,
)
from kdiff_jax.errors import ConfigError


class Process(NamedTuple):
    """A noise schedule.

    Attributes:
        logsnr: t -> 2 log(alpha / sigma).
        alpha: t -> factor of x0.
        sigma: t -> factor of eps.
        t_min: The data end, the smallest time that is trained on.
        t_max: The noise end, where generation starts.
        c_noise: t -> what a network without preconditioning of its own is told.
        time_of_logsnr: The inverse of `logsnr` on NumPy arrays, float64, for grids.
        num_timesteps: T of a discrete process; its times are 0 .. T - 1, and -1 (data).
        time: u in [0, 1) -> t, the uniform training time.
        cdf: t -> the share of those times that are at most t.
        spacing: Name in `grids` of the time grid of samplers that name none.
        z_scale: x where generation starts is z_scale * z, z ~ N(0, I).
        round_time: t -> the time that grids have in its place; NumPy, float64.
        straight: Whether x_t goes straight from eps to x0 as t falls, see `flow`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import process
        >>> flow = process.flow()
        >>> x0, t = jnp.ones((1, 2, 2, 3)), jnp.full(1, 0.75)
        >>> x_t = flow.add_noise(x0, jnp.zeros_like(x0), t)
        >>> float(x_t.max()), float(flow.ddim_step(x_t, x0, t, jnp.zeros(1)).max())
        (0.25, 1.0)
    """

    logsnr: Callable[[Any], Any]
    alpha: Callable[[Any], Any]
    sigma: Callable[[Any], Any]
    t_min: float
    t_max: float
    c_noise: Callable[[Any], Any]
    time_of_logsnr: Callable[[Any], Any]
    num_timesteps: Count | None = None
    time: Callable[[Any], Any] = lambda u: u
    cdf: Callable[[Any], Any] = lambda t: t
    spacing: str = "uniform"
    z_scale: float = 1.0
    round_time: Callable[[Any], Any] = lambda t: t
    straight: bool = False

    def scale(self, t):
        """c(t), where solvers of the probability-flow ODE walk x_t / c: 1, or alpha.

        With l the `level` of t, d(x_t / c) / dl = (x_t / c - x0_hat) / l.
        """
        return jnp.ones_like(t) if self.straight else self.alpha(t)

    def level(self, t):
        """What they walk along: t itself of a straight process, or sigma / alpha."""
        return t if self.straight else self.sigma(t) / self.alpha(t)

    def add_noise(
        self,
        x0: Float[Array, "*B H W C"],
        eps: Float[Array, "*B H W C"],
        t: Float[Array, "*B"],
    ) -> Float[Array, "*B H W C"]:
        """x_t = alpha(t) x0 + sigma(t) eps.

        Args:
            x0: Clean images.
            eps: Noise, N(0, 1).
            t: Times of the process, one for each image.
        """
        return (
            broadcast_left(self.alpha(t), x0) * x0
            + broadcast_left(self.sigma(t), x0) * eps
        )

    def ddim_step(
        self,
        x_t: Float[Array, "*B H W C"],
        x0_hat: Float[Array, "*B H W C"],
        t: Float[Array, "*B"],
        s: Float[Array, "*B"],
    ) -> Float[Array, "*B H W C"]:
        """The deterministic move from t to s along the eps that x0_hat implies.

        x_s = alpha_s x0_hat + (sigma_s / sigma_t) (x_t - alpha_t x0_hat)

        Only the ratio of the sigmas appears, so that nothing large is formed at the
        data end; exactly x0_hat where sigma(s) = 0.

        Args:
            x_t: Noised image at time t.
            x0_hat: Predicted clean image.
            t: Time now.
            s: Time after the step.

        Source: Song et al. 2021, arXiv:2010.02502, Eq. 12 with eta = 0.
        """
        sigma_t, sigma_s = self.sigma(t), self.sigma(s)
        ratio = jnp.where(sigma_t > 0, sigma_s / jnp.where(sigma_t > 0, sigma_t, 1), 0)
        rest = x_t - broadcast_left(self.alpha(t), x_t) * x0_hat
        return (
            broadcast_left(self.alpha(s), x_t) * x0_hat
            + broadcast_left(ratio, x_t) * rest
        )


def broadcast_left(v, x):
    """Reshapes v so that it broadcasts against x from the left."""
    return v.reshape(v.shape + (1,) * (x.ndim - v.ndim))


def cosine(*, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> Process:
    """The truncated cosine schedule, variance preserving, t in [0, 1].

    logsnr(t) = -2 log tan(a t + b), alpha = cos(a t + b), sigma = sin(a t + b)

    Both factors are computed as sines of angles that are small where the factor is
    (alpha as sin(a (1 - t) + c), c = pi/2 - a - b), so that each keeps full relative
    precision at both ends of time.

    Args:
        logsnr_min: logsnr at t = 1, up to the rounding of the reference code: -20.0011
            for -20.
        logsnr_max: logsnr at t = 0.

    Raises:
        ConfigError: If they are not in order.

    Source: Salimans & Ho 2022, arXiv:2202.00512, Section 4 and released code.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import process
        >>> found = process.cosine()
        >>> round(float(found.alpha(0.5)), 4), round(float(found.sigma(0.5)), 4)
        (0.7071, 0.7071)
    """
    if not logsnr_min < logsnr_max:
        raise ConfigError(
            f"logsnr_min={logsnr_min}: must lie below logsnr_max={logsnr_max};"
            " t = 1 is the noise end"
        )
    b = float(np.arctan(np.exp(-0.5 * logsnr_max)))
    # The reference rounds the angle of t = 1 to float32, so that its logsnr(1) is
    # -20.0011 and not -20; an eps-network's x0_hat there is proportional to 1 / alpha.
    end = float(np.float32(np.arctan(np.exp(-0.5 * logsnr_min))))
    a, c = end - b, np.pi / 2 - end

    def alpha(t):
        return jnp.sin(a * (1 - t) + c)

    def sigma(t):
        return jnp.sin(a * t + b)

    def logsnr(t):
        return 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t)))

    return Process(
        logsnr,
        alpha,
        sigma,
        t_min=0.0,
        t_max=1.0,
        c_noise=logsnr,
        time_of_logsnr=lambda logsnr: (np.arctan(np.exp(-0.5 * logsnr)) - b) / a,
    )


def discrete(
    *,
    schedule: str = "linear",
    beta_min: Below1 = 1e-4,
    beta_max: Below1 = 0.02,
    num_timesteps: Count = 1000,
    told: str = "time",
) -> Process:
    """DDPM's process with T steps, t = 0 .. T - 1; t = -1 is the data itself.

    alpha(t)^2 = prod_{s <= t} (1 - beta_s), sigma^2 = 1 - alpha^2

    The table is computed in float64 and looked up by index; between two indices
    sigma / alpha is linear, for grids that are even in the noise level.

    Args:
        schedule: "linear" in beta, "scaled_linear" in sqrt(beta) (Stable Diffusion), or
            "squaredcos" (improved DDPM; ignores beta_min and beta_max).
        beta_min: beta_0.
        beta_max: beta_{T-1}.
        num_timesteps: T.
        told: Timestep passed to the network between two indices: "time", "log"
            (interpolated in the logarithm of sigma / alpha) or "nearest" (the nearer
            index in that logarithm); the last two as in diffusers' schedulers with
            such grids.

    Raises:
        ConfigError: If a name is unknown, or a number is out of range.

    Source: Ho et al. 2020, arXiv:2006.11239, Section 4; Nichol & Dhariwal 2021,
    arXiv:2102.09672, Eq. 17.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import process
        >>> ddpm = process.discrete()
        >>> ddpm.t_max, round(float(ddpm.sigma(jnp.float32(0))), 4)
        (999.0, 0.01)
    """
    if told not in ("time", "log", "nearest"):
        raise ConfigError(f"told={told!r}: unknown; choose time, log or nearest")
    beta = betas(schedule, beta_min, beta_max, num_timesteps)
    # In logarithms, because 1 - alpha^2 cancels where beta is tiny.
    log_abar = np.cumsum(np.log1p(-beta))
    ratio_table = np.append(0.0, np.sqrt(np.expm1(-log_abar)))

    def around(t):
        """The place in the table below t, what is left of t, the levels around it."""
        table = jnp.asarray(ratio_table, t.dtype)
        at = jnp.clip(t + 1, 0, num_timesteps)
        below = jnp.floor(at).astype(jnp.int32)
        above = jnp.minimum(below + 1, num_timesteps)
        return below, at - below, table[below], table[above]

    def ratio(t):
        """sigma / alpha, from which alpha = 1 / sqrt(1 + ratio^2)."""
        _, part, low, high = around(t)
        return low * (1 - part) + high * part

    def c_noise(t):
        if told == "time":
            return t
        below, part, low, high = around(t)
        inside = (part > 0) & (below > 0)
        # Where t is an index the quotient may be 0 / 0, and is not used.
        logs = jnp.log(ratio(t) / low) / jnp.log(jnp.where(inside, high / low, 2))
        logs = logs if told == "log" else jnp.round(logs)
        return jnp.where(inside, below - 1 + logs, t)

    def sigma(t):
        return ratio(t) / jnp.sqrt(1 + ratio(t) ** 2)

    def time_of_logsnr(logsnr):
        times = np.arange(-1, num_timesteps)
        return np.interp(np.exp(-0.5 * logsnr), ratio_table, times)

    return Process(
        logsnr=lambda t: -2 * jnp.log(ratio(t)),
        alpha=lambda t: 1 / jnp.sqrt(1 + ratio(t) ** 2),
        sigma=sigma,
        t_min=0.0,
        t_max=num_timesteps - 1.0,
        c_noise=c_noise,
        num_timesteps=num_timesteps,
        time=lambda u: jnp.clip(jnp.floor(u * num_timesteps), 0, num_timesteps - 1),
        cdf=lambda t: (jnp.floor(t) + 1) / num_timesteps,
        spacing="linear",
        time_of_logsnr=time_of_logsnr,
    )


def betas(
    schedule: str, beta_min: float, beta_max: float, num_timesteps: int
) -> np.ndarray:
    """The variances beta_0 .. beta_{T-1} of a discrete process, float64.

    Raises:
        ConfigError: If they are no variances, or the schedule is unknown.
    """
    if not 1 <= num_timesteps <= 1_000_000:
        raise ConfigError(f"num_timesteps={num_timesteps}: must lie in 1 .. 1000000")
    if not 0 <= beta_min <= beta_max < 1:
        raise ConfigError(
            f"beta_min={beta_min}, beta_max={beta_max}: must lie in [0, 1), in order"
        )
    if schedule == "linear":
        return np.linspace(beta_min, beta_max, num_timesteps)
    if schedule == "scaled_linear":
        return np.linspace(beta_min**0.5, beta_max**0.5, num_timesteps) ** 2
    if schedule == "squaredcos":
        u = np.arange(num_timesteps + 1) / num_timesteps
        abar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - abar[1:] / abar[:-1], 0.999)
    raise ConfigError(
        f"schedule={schedule!r}: unknown; choose linear, scaled_linear or squaredcos"
    )


def edm(
    *,
    sigma_min: Positive = 0.002,
    sigma_max: Positive = 80.0,
    num_levels: Count | None = None,
    C_1: Positive = 0.001,
    C_2: Positive = 0.008,
) -> Process:
    """The variance-exploding process x_t = x0 + t eps: time is the noise level.

    Args:
        sigma_min: Smallest level above 0, in units of the data (images in [-1, 1]).
        sigma_max: Level where generation starts.
        num_levels: M of an improved-DDPM network (see `precondition.iddpm`), which
            knows that many levels: time grids take the nearest ones. None: any level.
        C_1: Constant C_1 of those levels.
        C_2: Constant C_2 of those levels.

    Raises:
        ConfigError: If the levels are not in order.

    Source: Karras et al. 2022, arXiv:2206.00364, Table 1, column "Ours".

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.diffusion import process
        >>> found = process.edm()
        >>> found.t_max, found.z_scale, float(found.sigma(2.0))
        (80.0, 80.0, 2.0)
    """
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(
            f"sigma_min={sigma_min}: must lie in (0, sigma_max={sigma_max});"
            " the grid is logarithmic"
        )
    round_time = _nearest(num_levels, C_1, C_2) if num_levels else lambda t: t
    return Process(
        logsnr=lambda t: -2 * jnp.log(t),
        alpha=jnp.ones_like,
        sigma=lambda t: t,
        t_min=sigma_min,
        t_max=sigma_max,
        c_noise=lambda t: t,
        time=lambda u: loguniform(u, sigma_min=sigma_min, sigma_max=sigma_max),
        cdf=lambda t: loguniform_cdf(t, sigma_min=sigma_min, sigma_max=sigma_max),
        spacing="karras",
        z_scale=float(round_time(sigma_max)),
        time_of_logsnr=lambda logsnr: np.exp(-0.5 * logsnr),
        round_time=round_time,
    )


def _nearest(num_levels, C_1, C_2):
    """t -> the nearest level above 0 of improved DDPM, each t by itself."""
    levels = iddpm_levels(C_1=C_1, C_2=C_2, num_timesteps=num_levels)[:-1]

    def round_time(t):
        distance = np.abs(np.asarray(t, np.float64)[..., None] - levels)
        return levels[distance.argmin(-1)]

    return round_time


def flow(*, t_max: Annotated[float, Range(0, 1, low_open=True)] = 1.0) -> Process:
    """The straight path of flow matching, alpha = 1 - t and sigma = t, t in [0, 1].

    Its velocity dx_t / dt is eps - x0, and no function of the project's v, alpha eps -
    sigma x0. Papers whose data is at t = 1, as SiT, have 1 - t for our t.

    Args:
        t_max: The noise end; below 1 training and generation leave out the last bit.

    Source: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.

    Examples:
        >>> from kdiff_jax.diffusion import process
        >>> found = process.flow()
        >>> found.alpha(0.25), found.sigma(0.25), found.straight
        (0.75, 0.25, True)
    """

    def logsnr(t):
        # Finite, so that weights which are functions of it are: +-33.3 at the ends.
        t = jnp.clip(t, 2**-24, 1 - 2**-24)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    return Process(
        logsnr,
        alpha=lambda t: 1 - t,
        sigma=lambda t: t,
        t_min=0.0,
        t_max=t_max,
        c_noise=lambda t: t,
        time=lambda u: u * t_max,
        cdf=lambda t: t / t_max,
        time_of_logsnr=lambda logsnr: 1 / (1 + np.exp(0.5 * logsnr)),
        straight=True,
    )


PROCESSES = {"cosine": cosine, "discrete": discrete, "edm": edm, "flow": flow}


def names() -> tuple[str, ...]:
    """The processes that `make` knows.

    Examples:
        >>> from kdiff_jax.diffusion import process
        >>> process.names()
        ('cosine', 'discrete', 'edm', 'flow')
    """
    return tuple(PROCESSES)


def make(name: str, **keywords) -> Process:
    """The process `name`, one of `names()`.

    Args:
        name: Name of its constructor.
        **keywords: Keywords of that.

    Raises:
        ConfigError: If there is no such process, or a keyword is not one of its or out
            of range.

    Examples:
        >>> from kdiff_jax.diffusion import process
        >>> process.make("discrete", schedule="scaled_linear").num_timesteps
        1000
    """
    function = make_function(name)
    arguments.check(function, keywords, what=f"process {name!r}")
    return function(**keywords)


def make_function(name: str) -> Callable[..., Process]:
    """What `make` calls; its keywords and defaults are the process' settings."""
    return registry.entry(PROCESSES, name, what="process")
