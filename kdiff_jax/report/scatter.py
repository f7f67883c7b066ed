"""A distance against what an image costs, one named point for each model."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from kdiff_jax.report import svg

LOG_RANGE = 8  # a positive axis that spans more than this is logarithmic
LETTER = 0.56  # width of a letter, of its size
POINT = 4.5  # radius, in points
# Where a name may stand: (dx, dy) of its corner, and which corner.
PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (7, 7, "left", "bottom"),
    (7, -7, "left", "top"),
    (-7, 7, "right", "bottom"),
    (-7, -7, "right", "top"),
)


class Point(NamedTuple):
    """A model in a plot.

    Attributes:
        name: What stands beside it.
        x: What an image costs.
        y: The distance.
        line: Points of one line are joined, as one model at several numbers of steps.
        filled: Whether it is a student.
        low: Lower end of the interval of y; None without one.
        high: Its upper end.
    """

    name: str
    x: float
    y: float
    line: str = ""
    filled: bool = True
    low: float | None = None
    high: float | None = None


def plot(
    points: Sequence[Point],
    *,
    xlabel: str,
    ylabel: str,
    salt: str,
    counts: bool = False,
) -> str:
    """The points as an <svg> element.

    Args:
        points: One or more, finite.
        xlabel: What x is.
        ylabel: What y is.
        salt: See `svg.text`.
        counts: Whether x counts something: its axis names the counts that there are.
    """
    figure, axes = svg.axes(5.6, 3.6)
    _scale(axes, "x", [p.x for p in points])
    if counts:
        _name_counts(axes, sorted({p.x for p in points}))
    ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    _scale(axes, "y", ends)
    lines = list(dict.fromkeys(point.line for point in points))
    for i, line in enumerate(lines):
        own = sorted((p for p in points if p.line == line), key=lambda p: p.x)
        color = svg.COLORS[i % len(svg.COLORS)]
        axes.plot([p.x for p in own], [p.y for p in own], color=color, alpha=0.5)
        for point in own:
            _mark(axes, point, color)
    axes.set_xlabel(xlabel, color=svg.INK, fontsize=svg.SIZE)
    axes.set_ylabel(ylabel, color=svg.INK, fontsize=svg.SIZE)
    _name(figure, axes, points)
    told = "; ".join(f"{p.name}: {p.x:.4g}, {p.y:.4g}" for p in points)
    alt = f"{ylabel} against {xlabel}. {told}"
    return svg.text(figure, alt=alt, salt=salt)


def _mark(axes, point: Point, color: str) -> None:
    if point.low is not None and point.high is not None:
        ends = [point.low, point.high]
        axes.plot([point.x] * 2, ends, color=color, linewidth=1.2)
    face = color if point.filled else "none"
    size = dict(ms=2 * POINT - 2, mew=1.6)
    axes.plot([point.x], [point.y], "o", color=color, mfc=face, **size)


def _scale(axes, axis: str, values: Sequence[float]) -> None:
    """Limits with room for names, logarithmic where the values span much."""
    from matplotlib import ticker

    low, high = min(values), max(values)
    log = low > 0 and high > LOG_RANGE * low
    if log:
        room = (high / low) ** 0.12
        limits = low / room, high * room
        getattr(axes, f"set_{axis}scale")("log")
    else:
        room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        bottom = low - room
        limits = (0 if 0 <= low <= 3 * room else bottom), high + room
    getattr(axes, f"set_{axis}lim")(*limits)
    if log:
        which = getattr(axes, f"{axis}axis")
        decades = high / low
        subs = (1, 2, 5) if decades < 300 else (1,)
        which.set_major_locator(ticker.LogLocator(subs=subs))
        which.set_minor_locator(ticker.NullLocator())
        which.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:,.6g}"))


def _name_counts(axes: Any, counts: Sequence[float]) -> None:
    """Ticks at the counts themselves, less those too near to the one before."""
    low, high = axes.get_xlim()
    log = axes.get_xscale() == "log"
    place = math.log if log else float
    width = (place(high) - place(low)) / 14
    kept: list[float] = []
    for count in counts:
        if not kept or place(count) - place(kept[-1]) > width:
            kept.append(count)
    axes.set_xticks(kept, [f"{count:,.6g}" for count in kept])


def _name(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Writes the names where none covers a point or another name, if there is room."""
    scale = 72 / figure.dpi
    shown = [axes.transData.transform((p.x, p.y)) * scale for p in points]
    taken = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in shown]
    frame = axes.get_window_extent().get_points().ravel() * scale
    for point, (x, y) in zip(points, shown, strict=True):
        width = LETTER * svg.SIZE * len(point.name)

        def box(place, at=(x, y), width=width):
            return _box(*at, *place, width=width, height=1.25 * svg.SIZE)

        dx, dy, ha, va = min(PLACES, key=lambda p: _cost(box(p), taken, frame))
        taken.append(box((dx, dy, ha, va)))
        axes.annotate(
            point.name,
            (point.x, point.y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            color=svg.INK,
            fontsize=svg.SIZE,
            annotation_clip=False,
        )


def _box(x, y, dx, dy, ha, va, *, width, height):
    left = x + dx - {"left": 0, "center": width / 2, "right": width}[ha]
    bottom = y + dy - {"bottom": 0, "center": height / 2, "top": height}[va]
    return left, bottom, left + width, bottom + height


def _cost(box, taken, frame) -> float:
    """Area that a name would share with others, or have outside of the frame."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    outside = area - _shared(box, frame)
    return 2 * outside + sum(_shared(box, other) for other in taken)


def _shared(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
