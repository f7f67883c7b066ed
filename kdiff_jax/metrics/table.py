"""Metrics by name: one file each, `metrics/NAME.py`.

==============================================  ======================================
``measure(found, reference) -> {name: float}``  the figures, of two `Seen`
``NEEDS``                                       what it reads of samples: "moments",
                                                "rows", "logits", "spatial",
                                                "similarities", "classes"
``NEEDS_OF_REFERENCE``                          of the reference; by default the same
``MIN_IMAGES``                                  images that it needs at least
``RESAMPLED``                                   whether a bootstrap tells its spread
``BETTER``                                      figure -> "lower" or "higher", of those
                                                that tell a better model
``OWN_NAME``                                    whether its figures are none of the
                                                features
==============================================  ======================================

A figure is reported as `figure_name` says: "fd" of Inception as "fid", of pixels as
"fd_pixels".
"""

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from kdiff_jax import registry
from kdiff_jax.errors import ConfigError
from kdiff_jax.metrics import frechet
from kdiff_jax.metrics.features import Features, figure_name
from kdiff_jax.metrics.seen import Gaussian, Seen, main_of, of_rows

log = logging.getLogger(__name__)

PACKAGE = "kdiff_jax.metrics"
FACT = "NEEDS"  # what every metric states, and no other file
MAX_SIMULATED = 2048  # features; the bias of more is not computed
INTERVAL = 5, 95  # percentiles of a bootstrap


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
            an interval of every figure that a bootstrap can tell; 0 for none.
        seed: Seed of these draws.
    """
    figures = {}
    for module in modules(wanted):
        values = module.measure(found, reference)
        if bootstrap and getattr(module, "RESAMPLED", False):
            values |= _intervals(module, values, found, reference, bootstrap, seed)
        figures |= {_reported(module, features, k): v for k, v in values.items()}
    return figures


def warn(wanted: Sequence[str], features: Features, found: Seen, ref: Seen) -> None:
    """Says in one line each what makes the figures worth little."""
    if found.main is None or "moments" not in needs(wanted):
        return
    num, dim = found.main.num or 0, len(found.main.mu)
    if num <= dim:
        log.warning(
            "num_images=%d: no more than the %d features, so that distances are too"
            " large%s; make more images, or compare with as many alone",
            *(num, dim, _perfect(main_of(ref), num)),
        )
    if not found.main.sigma.any():
        log.warning("num_images=%d: all images have the same features", num)


def _perfect(reference: Gaussian, num: int) -> str:
    """What the distance of so many samples of the reference itself would be."""
    mu, sigma, _ = reference
    if len(mu) > MAX_SIMULATED or num < 2:
        return ""
    draws = np.random.RandomState(0).standard_normal((num, len(mu)))
    values, vectors = np.linalg.eigh(sigma)
    rows = draws * np.sqrt(np.clip(values, 0, None)) @ vectors.T + mu
    part = of_rows(rows)
    bias = frechet.frechet_distance(part.mu, part.sigma, mu, sigma)
    return f" (a perfect model would be at about {bias:.3g})"


def _intervals(module, values, found, reference, num_draws, seed) -> dict[str, float]:
    """`NAME_low` and `NAME_high`, the 5th and 95th percentile of each figure.

    The spread of the draws around their mean, put around the figure: what is drawn
    twice makes every draw's distance larger.
    """
    draw, num = np.random.RandomState(seed), len(found.rows)
    drawn = []
    for _ in range(num_draws):
        places = np.sort(draw.randint(num, size=num))
        drawn.append(module.measure(found.part(places), reference))
    interval = {}
    for name, value in values.items():
        if name.endswith("_std"):
            continue
        spread = np.array([one[name] for one in drawn])
        ends = np.percentile(spread - spread.mean(), INTERVAL)
        for end, offset in zip(("low", "high"), ends, strict=True):
            interval[f"{name}_{end}"] = value + float(offset)
    return interval
