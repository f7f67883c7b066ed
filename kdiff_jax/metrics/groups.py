"""Figures of a part of the images: of each class, or of each student's classes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdiff_jax.errors import ConfigError
from kdiff_jax.metrics import table
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.partition import Partition


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

    A metric of spatial features is left out, of which no rows are kept, and one that
    needs more images than a group has is left out of it; `caveats.of_groups` says so. A
    figure that is not finite is left out, too.

    Args:
        wanted: Names of metrics.
        features: The features that both were looked at with.
        found: The samples, with rows and labels.
        reference: What they are compared with, with rows and labels.
        groups: Name -> i64[n], the labels that belong to the group.
    """
    needed, figures = least(wanted), {}
    for group, num in sizes(found, reference, groups).items():
        names = [name for name, least_num in needed.items() if least_num <= num]
        if not names:
            continue
        mine, others = (_places(one, groups[group]) for one in (found, reference))
        ours, theirs = found.part(mine), reference.part(others)
        values = table.measure(names, features, ours, theirs)
        finite = {name: x for name, x in values.items() if math.isfinite(x)}
        figures[group] = {"num_images": len(mine), **finite}
    return figures


def least(wanted: Sequence[str]) -> dict[str, int]:
    """Metric -> images that it needs of a group; those that groups can have.

    Args:
        wanted: Names of metrics.
    """
    modules = zip(wanted, table.modules(wanted), strict=True)
    # The features of a single image have no covariance.
    return {n: max(m.MIN_IMAGES, 2) for n, m in modules if "spatial" not in m.NEEDS}


def sizes(
    found: Seen, reference: Seen, groups: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Group -> number of its images, the lower of samples and reference.

    Args:
        found: The samples, with labels.
        reference: What they are compared with, with labels.
        groups: Name -> i64[n], the labels that belong to the group.
    """
    sets = found, reference
    return {
        group: min(len(_places(one, labels)) for one in sets)
        for group, labels in groups.items()
    }


def _places(seen: Seen, labels: np.ndarray) -> np.ndarray:
    """i64[n], of the images that have one of the labels."""
    assert seen.labels is not None, "not asked for"
    return np.flatnonzero(np.isin(seen.labels, labels))
