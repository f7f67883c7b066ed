"""Metrics by name: one file each, `metrics/NAME.py`.

==============================================  ======================================
``measure(found, reference) -> {name: float}``  the figures, of two `Seen`
``NEEDS``                                       what it reads of samples: "moments",
                                                "rows", "logits", "spatial",
                                                "similarities", "classes"
``NEEDS_OF_REFERENCE``                          of the reference; by default the same
``MIN_IMAGES``                                  images that it needs at least
``RESAMPLED``                                   whether a bootstrap tells its spread by
                                                `measure` of drawn samples
``drawn(found, reference, counts) -> Drawn``    the figures, and those of drawn samples,
                                                where that takes less than `measure`
``NO_INTERVAL``                                 figure -> why a bootstrap tells nothing
``BETTER``                                      figure -> "lower" or "higher", of those
                                                that tell a better model
``OWN_NAME``                                    whether its figures are none of the
                                                features
==============================================  ======================================

A figure is reported as `figure_name` says: "fd" of Inception as "fid", of pixels as
"fd_pixels".
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

import numpy as np

from kdiff_jax import registry
from kdiff_jax.errors import ConfigError
from kdiff_jax.metrics.features import Features, figure_name
from kdiff_jax.metrics.seen import Seen, rows_of

log = logging.getLogger(__name__)

PACKAGE = "kdiff_jax.metrics"
FACT = "NEEDS"  # what every metric states, and no other file
INTERVAL = 5, 95  # percentiles of a bootstrap
MIN_DRAWN = 0.9  # of the draws, that must have a figure


def names() -> list[str]:
    """The metrics that exist."""
    return registry.names(PACKAGE, FACT)


def modules(wanted: Sequence[str]) -> list[ModuleType]:
    """The files of metrics.

    Raises:
        ConfigError: If there is no such metric, or one is named twice.
    """
    if len(set(wanted)) < len(wanted) or not wanted:
        raise ConfigError(
            f"metrics={','.join(wanted)}: name each once, of {', '.join(names())}"
        )
    return [
        registry.module(PACKAGE, name, what="metrics", defines=FACT) for name in wanted
    ]


def needs(wanted: Sequence[str], *, bootstrap: bool = False) -> frozenset[str]:
    """What the metrics read of samples."""
    found = {need for module in modules(wanted) for need in module.NEEDS}
    return frozenset(found | ({"rows"} if bootstrap else set()))


def needs_of_reference(wanted: Sequence[str]) -> frozenset[str]:
    """What the metrics read of the reference."""
    return frozenset(
        need
        for module in modules(wanted)
        for need in getattr(module, "NEEDS_OF_REFERENCE", module.NEEDS)
    )


def better(wanted: Sequence[str], features: str) -> dict[str, str]:
    """Name of a figure, as it is reported -> which way is better, "lower" or "higher".

    Figures that do not tell a better model are not there.

    Args:
        wanted: Names of metrics.
        features: Name of the features.
    """
    found: dict[str, str] = {}
    for module in modules(wanted):
        ways = getattr(module, "BETTER", {})
        found |= {_reported(module, features, name): ways[name] for name in ways}
    return found


def _reported(module: ModuleType, features: Features | str, figure: str) -> str:
    """The name under which a figure of a metric is reported."""
    is_own = getattr(module, "OWN_NAME", False)
    return figure if is_own else figure_name(features, figure)


def check(
    wanted: Sequence[str], features: Features, num_images: int | None = None
) -> None:
    """Refuses metrics that cannot be taken on these features, or of so few images.

    Args:
        wanted: Names of metrics.
        features: The features.
        num_images: Number of samples; None if there are none yet.

    Raises:
        ConfigError: Names the metric.
    """
    offers = {
        "logits": features.extractor.logits,
        "spatial": features.extractor.spatial,
        "classes": features.extractor.classes or None,
    }
    for name, module in zip(wanted, modules(wanted), strict=True):
        for need in module.NEEDS:
            if offers.get(need, need) is None:
                raise ConfigError(
                    f"metrics={name}: reads {need}, and features={features.name} has"
                    " none; leave it out, or choose other features"
                )
        if num_images is not None and num_images < module.MIN_IMAGES:
            raise ConfigError(
                f"num_images={num_images}: metrics={name} needs {module.MIN_IMAGES} or"
                " more; make more images, or leave it out"
            )


def measure(
    wanted: Sequence[str],
    features: Features,
    found: Seen,
    reference: Seen,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """The figures of all metrics, by the names under which they are reported.

    Args:
        wanted: Names of metrics.
        features: The features that both were looked at with.
        found: The samples.
        reference: What they are compared with.
        bootstrap: Number of times that samples are drawn anew, with replacement, for
            an interval of every figure that a bootstrap can tell; 0 for none. See
            `without_interval`.
        seed: Seed of these draws.
    """
    figures = {}
    for module in modules(wanted):
        if bootstrap:
            values = _with_intervals(module, found, reference, bootstrap, seed)
        else:
            values = module.measure(found, reference)
        figures |= {_reported(module, features, k): v for k, v in values.items()}
    return figures


def without_interval(wanted: Sequence[str]) -> dict[str, str]:
    """Figure, or metric where its file says no more -> why no bootstrap tells it."""
    found: dict[str, str] = {}
    for name, module in zip(wanted, modules(wanted), strict=True):
        found |= getattr(module, "NO_INTERVAL", {})
        told = hasattr(module, "drawn") or getattr(module, "RESAMPLED", False)
        if not told and not hasattr(module, "NO_INTERVAL"):
            found[name] = "its file does not say that a bootstrap tells its spread"
    return found


def warn_of_bootstrap(wanted: Sequence[str], bootstrap: int) -> None:
    """Says in one line which figures get no interval, and why."""
    if bootstrap and (lacking := without_interval(wanted)):
        told = "; ".join(f"{name} ({why})" for name, why in lacking.items())
        log.info("bootstrap=%d: no interval of %s", bootstrap, told)


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that are numbers; a line says which are left out.

    A row holds no NaN and no infinity, for which JSON has no word: the distance to the
    nearest training image, over a typical one that is 0, is no figure.
    """
    kept = {name: value for name, value in figures.items() if math.isfinite(value)}
    if left := {name: value for name, value in figures.items() if name not in kept}:
        said = ", ".join(f"{name}={value}" for name, value in left.items())
        log.warning("%s: no finite figure, and left out", said)
    return kept


def _with_intervals(module, found, reference, num_draws, seed) -> dict[str, float]:
    """The figures, with `NAME_low` and `NAME_high` of each that a bootstrap tells.

    The 5th and 95th percentile of the draws around their mean, put around the figure:
    what is drawn twice makes every draw's distance larger.
    """
    if hasattr(module, "drawn"):
        counts = np.stack([*_counts(len(rows_of(found)), num_draws, seed)])
        values, draws = module.drawn(found, reference, counts)
    else:
        values, draws = module.measure(found, reference), {}
        if getattr(module, "RESAMPLED", False):
            draws = _measured_again(module, values, found, reference, num_draws, seed)
    interval = {}
    for name, spread in draws.items():
        told = spread[np.isfinite(spread)]
        if len(told) < MIN_DRAWN * num_draws:
            continue
        ends = np.percentile(told - told.mean(), INTERVAL)
        for end, offset in zip(("low", "high"), ends, strict=True):
            interval[f"{name}_{end}"] = values[name] + float(offset)
    return {**values, **interval}


def _measured_again(module, values, found, reference, num_draws, seed):
    """Figure -> f64[B], measured of each draw."""
    num, drawn = len(rows_of(found)), []
    for counts in _counts(num, num_draws, seed):
        places = np.repeat(np.arange(num), counts)
        drawn.append(module.measure(found.part(places), reference))
    names = [name for name in values if not name.endswith("_std")]
    return {name: np.array([one[name] for one in drawn]) for name in names}


def _counts(num: int, num_draws: int, seed: int) -> Iterator[np.ndarray]:
    """i64[N], how often each image is drawn, of each draw."""
    draw = np.random.RandomState(seed)
    for _ in range(num_draws):
        yield np.bincount(draw.randint(num, size=num), minlength=num)
