"""Names of figures: which are distances, which way is better, how a row is called."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

LOWER = ("fid", "fd", "kid", "kd", "sfid", "sfd", "clip_fid")
HIGHER = (
    *("inception_score", "is", "precision", "recall", "density", "coverage"),
    *("clip_score", "class_accuracy"),
)
ENDS = ("_low", "_high", "_std")  # what belongs to a figure and is none


def better(name: str) -> str | None:
    """ "lower", "higher", or None where neither is better, or nothing is known.

    Args:
        name: Name of a figure, with that of its features behind it: "fd_pixels".
    """
    if not is_figure(name):
        return None
    if _begins(name, HIGHER):
        return "higher"
    return "lower" if _begins(name, LOWER) else None


def best(values: Sequence[Any], name: str) -> int | None:
    """Place of the best of several values of a figure; None if none can be ranked.

    Args:
        values: One for each model; what is not finite is passed over.
        name: Name of the figure.
    """
    way = better(name)
    numbers = [(finite(value), i) for i, value in enumerate(values)]
    ranked = [(value, i) for value, i in numbers if value is not None]
    if way is None or not ranked:
        return None
    sign = -1 if way == "higher" else 1
    return min(ranked, key=lambda pair: sign * pair[0])[1]


def distances(rows: Sequence[Row]) -> list[str]:
    """The distances to the reference that any row has, FID before others."""
    found = dict.fromkeys(n for row in rows for n in row["metrics"])
    own = [name for name in found if better(name) == "lower"]
    return sorted(own, key=lambda name: name != "fid")


def spread(metrics: Mapping[str, Any], name: str) -> tuple[str, float, float] | None:
    """(kind, ...) of what tells how sure a figure is.

    Returns:
        ("interval", low, high), ("std", value, value), or None.
    """
    low, high, std = (finite(metrics.get(name + end)) for end in ENDS)
    if low is not None and high is not None:
        return "interval", low, high
    return None if std is None else ("std", std, std)


def is_figure(name: str) -> bool:
    """Whether it is a figure of its own, not the spread of another."""
    return not name.endswith(ENDS)


def names(rows: Sequence[Row]) -> list[str]:
    """Each row by its stage, and by its evaluations where the stage has several.

    Rounds, or students at several numbers of steps, are told apart.
    """
    stages = Counter(row["stage"] for row in rows)
    return [
        f"{row['stage']}, {evaluations(row['nfe'])}"
        if stages[row["stage"]] > 1
        else str(row["stage"])
        for row in rows
    ]


def evaluations(nfe: Any) -> str:
    """ "1 step", "35 evaluations"."""
    return "1 step" if nfe == 1 else f"{nfe} evaluations"


def finite(value: Any) -> float | None:
    """A number that can be drawn or ranked; None for NaN, null and no figure."""
    ok = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if ok else None


def _begins(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}_") for one in prefixes)
