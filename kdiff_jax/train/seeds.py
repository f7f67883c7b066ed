"""Figures of several seeds: the best, as EDM reports, or their mean, with all shown."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdiff_jax import rng
from kdiff_jax.errors import ConfigError
from kdiff_jax.report import figures

log = logging.getLogger(__name__)

HEADLINES = ("best", "mean")
Figures = Mapping[str, Any]


class Measured(NamedTuple):
    """Figures of the images of one seed.

    Attributes:
        seed: The seed.
        metrics: Figures by name.
        groups: Figures of each group of labels; {} without groups.
    """

    seed: int
    metrics: Figures
    groups: Mapping[str, Figures] = {}


def of(first: int, num: int) -> range:
    """The seeds first, first + 1, ...: each gives what it would give alone.

    Raises:
        ConfigError: If one of them is no seed.
    """
    if first + num - 1 > rng.MAX_SEED:
        raise ConfigError(
            f"seeds={num}: from seed {first} on they end above {rng.MAX_SEED}; begin"
            " with a smaller seed"
        )
    return range(first, first + num)


def figures_of(
    found: Sequence[Measured], headline: str, per: str | None = None
) -> dict[str, Any]:
    """The columns seed, metrics and groups of a row, and seeds where there are several.

    Where groups were measured, `per` tells what they are.

    With "best" these are the figures of one seed, the one whose first figure with a
    better way is best: the row is that of this seed alone. With "mean" each figure is
    the mean over the seeds, and what tells the spread of a single one is left out.

    Args:
        found: Figures of each seed.
        headline: "best" or "mean".
        per: "class" or "student", what the groups are; nothing without groups.
    """
    about = {"per": per} if any(one.groups for one in found) else {}
    return {**_headline(found, headline), **about}


def _headline(found: Sequence[Measured], headline: str) -> dict[str, Any]:
    """The figures of all seeds as those of one row."""
    if len(found) == 1:
        return _of_one(found[0])
    each = [{"seed": one.seed, "metrics": dict(one.metrics)} for one in found]
    by = _first_ranked(found[0].metrics)
    if headline == "best" and by is None:
        log.warning("headline=best: nothing tells which figure is better; it is a mean")
        headline = "mean"
    about: dict[str, Any] = {"headline": headline, "each": each}
    if headline == "mean" or by is None:
        return {**_of_one(_mean(found)), "seeds": about}
    best = figures.best([one.metrics.get(by) for one in found], by)
    return {**_of_one(found[best or 0]), "seeds": {**about, "by": by}}


def _of_one(found: Measured) -> dict[str, Any]:
    return {"seed": found.seed, "metrics": found.metrics, "groups": found.groups}


def _first_ranked(metrics: Figures) -> str | None:
    return next((name for name in metrics if figures.better(name)), None)


def _mean(found: Sequence[Measured]) -> Measured:
    groups = {
        group: _mean_of([one.groups[group] for one in found if group in one.groups])
        for group in dict.fromkeys(g for one in found for g in one.groups)
    }
    metrics = _mean_of([one.metrics for one in found])
    return Measured(found[0].seed, metrics, groups)


def _mean_of(several: Sequence[Figures]) -> dict[str, Any]:
    # One may lack a figure: of a group that its labels leave too few images.
    shared = [name for name in several[0] if all(name in one for one in several)]
    names = [name for name in shared if figures.is_figure(name)]
    means = {n: math.fsum(one[n] for one in several) / len(several) for n in names}
    if "num_images" in means:  # of a group, whose labels may be drawn
        means["num_images"] = round(means["num_images"])
    return means
