"""Figures of a part of the images: of each class, or of each student's classes."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdiff_jax.errors import ConfigError
from kdiff_jax.metrics import table
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.partition import Partition

log = logging.getLogger(__name__)


def check(per: str | None, num_classes: int, num_groups: int) -> None:
    """Refuses groups that nothing tells apart.

    Args:
        per: "class", "student", or nothing for no groups.
        num_classes: Number of classes of the model.
        num_groups: Number of groups of classes that have students of their own.

    Raises:
        ConfigError: Names `per`.
    """
    if per == "student" and num_groups < 2:
        raise ConfigError("per=student: one student owns all classes; leave it out")
    if per and not num_classes:
        raise ConfigError(f"per={per}: the model knows no classes; leave it out")


def of(per: str | None, num_classes: int, partition: Partition) -> dict[str, Any]:
    """Name -> labels of each group, i64[n]; see `check`.

    Args:
        per: "class", "student", or nothing for no groups.
        num_classes: Number of classes of the model.
        partition: Its students; those of ranges of time share their group's figures.

    Raises:
        ConfigError: If there is nothing to tell the groups by.
    """
    check(per, num_classes, partition.num_groups)
    if per == "class":
        return {str(y): np.array([y]) for y in range(num_classes)}
    own = partition.groups if per else ()
    return {str(g): np.array(labels) for g, labels in enumerate(own)}


def needs(wanted: Sequence[str]) -> frozenset[str]:
    """What the metrics read if they are taken of groups, too."""
    return table.needs(wanted) | {"rows"}


def needs_of_reference(wanted: Sequence[str]) -> frozenset[str]:
    """What they read of the reference, as `needs`."""
    return table.needs_of_reference(wanted) | {"rows", "labels"}


def measure(
    wanted: Sequence[str],
    features: Features,
    found: Seen,
    reference: Seen,
    groups: Mapping[str, np.ndarray],
) -> dict[str, dict[str, Any]]:
    """Group -> its number of images and figures.

    A metric of spatial features is left out, of which no rows are kept, and so is a
    group of too few images.

    Args:
        wanted: Names of metrics.
        features: The features that both were looked at with.
        found: The samples, with rows and labels.
        reference: What they are compared with, with rows and labels.
        groups: Name -> i64[n], the labels that belong to the group.
    """
    modules = zip(wanted, table.modules(wanted), strict=True)
    kept = [(name, one) for name, one in modules if "spatial" not in one.NEEDS]
    figures: dict[str, dict[str, Any]] = {}
    if not kept:
        return figures
    for group, labels in groups.items():
        mine, others = (_places(one, labels) for one in (found, reference))
        num, least = min(len(mine), len(others)), max(m.MIN_IMAGES for _, m in kept)
        if num < max(least, 2):
            log.warning("group %s: %d images are too few for its figures", group, num)
            continue
        ours, theirs = found.part(mine), reference.part(others)
        values = table.measure([name for name, _ in kept], features, ours, theirs)
        figures[group] = {"num_images": len(mine), **values}
    return figures


def _places(seen: Seen, labels: np.ndarray) -> np.ndarray:
    """i64[n], of the images that have one of the labels."""
    assert seen.labels is not None, "not asked for"
    return np.flatnonzero(np.isin(seen.labels, labels))
