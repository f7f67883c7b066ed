"""Samplers: (denoise, z, y) -> x0. `make` knows them by the name of their file.

A sampler is built once, with its time grid; the grid has a fixed length, and the
network is compiled once inside one loop over it, see `scan_grid`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import arguments, registry, rng
from kdiff_jax.arguments import Count, NotNegative
from kdiff_jax.diffusion import guidance
from kdiff_jax.diffusion.guidance import Interval
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import ConfigError

MAX_STEPS = 1_000_000  # a grid of times is made on the host


class Sampler(NamedTuple):
    """A sampler with its settings bound.

    Attributes:
        sample: (denoise, z, y=None, *, keys=None, noise=None) -> x0. `denoise` is (x_t,
            t[B], y[B]) -> x0_hat, or `Ranges` of such; `z` f32[B, H, W, C] ~ N(0, I),
            scaled inside. A sampler that draws noise needs `keys`, Key[B], one per
            example, or `noise`, a function i -> f32[B, H, W, C] of the step; the others
            ignore both.
        nfe: Network evaluations per image.
        name: The name given to `make`.
        options: The keywords given to `make`.

    Examples:
        The denoiser of data that are one grey image:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> def denoise(x_t, t, y):
        ...     return jnp.full_like(x_t, 0.25)
        >>> sampler = samplers.make("ddim", process=process.cosine(), num_steps=4)
        >>> z = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
        >>> x0 = sampler.sample(denoise, z)
        >>> x0.shape, float(x0.min()), float(x0.max())
        ((2, 8, 8, 3), 0.25, 0.25)
    """

    sample: Callable[..., Any]
    nfe: int
    name: str
    options: Mapping[str, Any] = {}


class Ranges(NamedTuple):
    """A denoiser that is another one in each range of time.

    Attributes:
        at: i -> the denoiser of range i, an i32[] that may be traced.
        range_of: f64[N] -> i32[N], the range of each time; of NumPy arrays.
    """

    at: Callable[[Any], Callable[..., Any]]
    range_of: Callable[[np.ndarray], Any]

    def __call__(self, *asked):
        """Refuses a sampler that asks by itself, and so in no range.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "sampler: calls its denoiser outside of `scan_grid`, so that the times that"
            " it asks for are not known; see docs/add_a_sampler.md"
        )


def scan_grid(body, carry, rows, times: np.ndarray, denoise):
    """The last carry of body(denoise, carry, row) over the rows of a time grid.

    With `Ranges` the outer one of two loops goes over runs of rows that have one range,
    so that each range's weights are taken once for a batch, in order, and the network
    is still compiled once. Where its ranges are copies, the bits are those of the one
    denoiser: rows stay in a loop that XLA does not unfold. It unfolds loops of one
    round, and two nested ones became other arithmetic than one (on a CPU, in the single
    evaluation of an eps-network by Heun's method: 6e-5), so that rows of one range are
    a plain scan.

    Args:
        body: One network evaluation.
        carry: Before the first row.
        rows: Tree of arrays [N, ...].
        times: f64[N] that the network is asked at, known on the host.
        denoise: A denoiser or `Ranges`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from kdiff_jax import samplers
        >>> times = np.array([3.0, 2.0, 1.0])
        >>> def body(denoise, x, t):
        ...     return denoise(x, t, None)
        >>> def denoise(x_t, t, y):
        ...     return x_t + t
        >>> float(samplers.scan_grid(body, 0.0, jnp.asarray(times), times, denoise))
        6.0
    """
    if isinstance(denoise, Ranges):
        ranges = np.asarray(denoise.range_of(times))
        if (ranges != ranges[0]).any():
            return _scan_runs(body, carry, rows, ranges, denoise.at)
        denoise = denoise.at(int(ranges[0]))
    last, _ = jax.lax.scan(lambda c, row: (body(denoise, c, row), None), carry, rows)
    return last


def _scan_runs(body, carry, rows, ranges: np.ndarray, at):
    """As `scan_grid`; ranges i32[N] is that of each row."""
    firsts = np.flatnonzero(np.diff(ranges, prepend=-1))
    runs = jnp.stack(
        [ranges[firsts], firsts, np.append(firsts[1:], len(ranges))],
        dtype=jnp.int32,
        axis=1,
    )

    def over_run(carry, run):
        here, first, end = run
        owner = at(here)

        def at_row(i, carry):
            return body(owner, carry, jax.tree.map(lambda row: row[i], rows))

        return jax.lax.fori_loop(first, end, at_row, carry), None

    last, _ = jax.lax.scan(over_run, carry, runs)
    return last


def step_noise(keys, noise, z) -> Callable[[Any], Any]:
    """i -> N(0, 1) of z's shape for step i: `noise` when given, else drawn from `keys`.

    Args:
        keys: Key[B], one per image; None where `noise` is given.
        noise: i -> f32[B, H, W, C]; None to draw it.
        z: f32[B, H, W, C], whose shape alone is read.

    Raises:
        ConfigError: If both are None.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import samplers
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> draw = samplers.step_noise(keys, None, jnp.zeros((2, 8, 8, 3)))
        >>> draw(0).shape, bool((draw(0) == draw(0)).all())
        ((2, 8, 8, 3), True)
    """
    if noise is not None:
        return noise
    if keys is None:
        raise ConfigError("keys=None: this sampler draws noise; give one key per image")

    def draw(i):
        now = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        return rng.normal(now, "sampler", z.shape[1:])

    return draw


def names() -> list[str]:
    """The samplers that exist: the modules of this package.

    Examples:
        >>> from kdiff_jax import samplers
        >>> "ddim" in samplers.names()
        True
    """
    return registry.names(__name__)


def make(name: str, *, process: Process, **keywords) -> Sampler:
    """The sampler `name`, one of `names()`, for `process`.

    Args:
        name: A file of this folder.
        process: The process that the denoiser was trained on.
        **keywords: Keywords of the sampler's own `make`. All samplers take `guidance`,
            the strength of classifier-free guidance (1 is none), `guidance_interval`,
            the noise levels sigma / alpha that are guided (None for all), and
            `guidance_channels`, how many channels are (None for all).

    Raises:
        ConfigError: If there is no such sampler, a keyword is not one of its or out of
            range, or the process has no such grid of times.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> sampler = samplers.make("heun", process=process.edm(), num_steps=18)
        >>> sampler.name, sampler.nfe
        ('heun', 35)
        >>> options = dict(process=process.edm(), num_steps=18, guidance=2.0)
        >>> samplers.make("heun", **options).nfe
        70
    """
    function, what = make_function(name), f"sampler {name!r}"
    arguments.check(function, keywords, what=what, hidden=("process",))
    if keywords["num_steps"] > MAX_STEPS:
        raise ConfigError(
            f"num_steps={keywords['num_steps']}: must be at most {MAX_STEPS}"
        )
    return function(process=process, **keywords)._replace(name=name, options=keywords)


def make_function(name: str) -> Callable[..., Sampler]:
    """What `make` calls; its keywords and defaults are the sampler's settings.

    Those of its file, and `guidance`, `guidance_interval` and `guidance_channels`, see
    `guided`.
    """
    own = registry.module(__name__, name, what="sampler").make

    @functools.wraps(own)
    def function(
        *, guidance=1.0, guidance_interval=None, guidance_channels=None, **keywords
    ):
        sampler, process = own(**keywords), keywords["process"]
        among = guidance_interval, guidance_channels
        return guided(sampler, process, guidance, *among)

    signatures = inspect.signature(own), inspect.signature(_shared)
    parameters = [p for one in signatures for p in one.parameters.values()]
    whole = signatures[0].replace(parameters=parameters)
    setattr(function, "__signature__", whole)  # noqa: B010
    return function


def _shared(
    *,
    guidance: NotNegative = 1.0,
    guidance_interval: Interval | None = None,
    guidance_channels: Count | None = None,
) -> None:
    """The keywords that every sampler has beside its own; a signature alone."""


def guided(
    sampler: Sampler,
    process: Process,
    scale: float | int,
    interval: Sequence[float | int] | None = None,
    channels: int | None = None,
) -> Sampler:
    """A sampler that asks for classifier-free guidance of the denoiser.

    Its `nfe` counts both branches: two at a guided time, one outside the interval.

    Args:
        sampler: Any.
        process: Its forward process.
        scale: See `guidance.guide`; 1 is the sampler itself.
        interval: See `guidance.within`; None for all levels.
        channels: See `guidance.guide`; None for all. The authors of DiT and SiT guide 3
            of 4.

    Raises:
        ConfigError: If the interval is empty.
    """
    if scale == 1:
        return sampler
    num_guided = sampler.nfe
    if interval is not None:
        times = jnp.asarray(asked_times(sampler), jnp.float32)
        num_guided = int(guidance.within(times, process, interval).sum())
    options: dict[str, Any] = dict(scale=scale, process=process, interval=interval)
    options |= dict(channels=channels, skip=True)

    def sample(denoise, z, y=None, **keywords):
        if y is None:
            raise ConfigError(f"guidance={scale}: needs labels; give y, or set 1")
        denoise = _each(denoise, lambda one: guidance.guide(one, **options))
        return sampler.sample(denoise, z, y, **keywords)

    return sampler._replace(sample=sample, nfe=sampler.nfe + num_guided)


def telling(sampler: Sampler, scale: float | int) -> Sampler:
    """A sampler that tells a denoiser which reads it the strength of guidance.

    Args:
        sampler: Any without guidance.
        scale: See `guidance.guide`.
    """

    def told(denoise):
        def at_scale(x_t, t, y):
            return denoise(x_t, t, y, guidance=jnp.full(len(x_t), scale, jnp.float32))

        return at_scale

    def sample(denoise, z, y=None, **keywords):
        return sampler.sample(_each(denoise, told), z, y, **keywords)

    return sampler._replace(sample=sample)


def _each(denoise, change: Callable[[Any], Any]):
    """A denoiser, or each of `Ranges`, as `change` makes it."""
    if not isinstance(denoise, Ranges):
        return change(denoise)
    at, range_of = denoise
    return Ranges(lambda i: change(at(i)), range_of)


def asked_times(sampler: Sampler) -> np.ndarray:
    """f64[N], the times that a denoiser is asked at; nothing is computed.

    Args:
        sampler: Any. Both evaluations of a guided time count as one.

    Examples:
        >>> from kdiff_jax import samplers
        >>> from kdiff_jax.diffusion import process
        >>> sampler = samplers.make("ddim", process=process.cosine(), num_steps=4)
        >>> samplers.asked_times(sampler).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """
    found = []

    def range_of(times):
        found.append(np.asarray(times, np.float64))
        return np.zeros(len(times), int)

    denoise = Ranges(lambda i: lambda x_t, t, y, **told: x_t, range_of)

    def sample(z, keys):
        return sampler.sample(denoise, z, np.zeros(1, np.int32), keys=keys)

    z = jax.ShapeDtypeStruct((1, 1, 1, 1), np.float32)
    jax.eval_shape(sample, z, jax.random.split(jax.random.key(0), 1))
    return np.concatenate(found)
