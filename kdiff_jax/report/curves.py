"""Metrics over the steps of a training: losses, errors and speed, then the rest."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kdiff_jax.report import svg

AXES = ("step", "time", "images")  # no measurements
SECONDS = re.compile(r"(^|_)seconds$")  # a clock, which only ever rises
LOG_RANGE = 50  # a positive metric that spans more than this gets a logarithmic axis
MAX_COLORED = len(svg.COLORS)  # students that are told apart by colour


class Curve(NamedTuple):
    """A metric of a log, and the same of each of several students.

    Attributes:
        name: The metric.
        matters: Whether it tells how well a training goes: a loss, an error, a
            distance, or how fast. Norms of gradients do not.
        lines: Key of the log for each line of the plot; the first is that of all.
    """

    name: str
    matters: bool
    lines: tuple[str, ...]


def curves(lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """What of a log can be drawn: finite at two steps or more, and no clock."""
    seen = dict.fromkeys(name for line in lines for name in line)
    drawn = [n for n in seen if n not in AXES and not SECONDS.search(n)]
    drawn = [name for name in drawn if len(_points(lines, name)) > 1]
    found = []
    for name in drawn:
        stem, _, student = name.rpartition("/")
        if student.isdigit() and stem in drawn:
            continue  # with the metric of all
        own = sorted(_students(name, drawn), key=lambda n: int(n.rpartition("/")[2]))
        # The only student of a part is the same line again.
        own = own if len(own) > 1 else []
        found.append(Curve(name, _matters(name), (name, *own)))
    return found


def plot(lines: Sequence[Mapping[str, Any]], curve: Curve, *, stage: str) -> str:
    """A curve as an <svg> element.

    Args:
        lines: As `metrics_log.read` gives them.
        curve: One of `curves`.
        stage: Name of the stage, of which the page has no second one.
    """
    figure, axes = svg.axes(4.2, 2.4)
    values: list[float] = []
    first, *students = curve.lines
    colored = len(students) <= MAX_COLORED
    for i, key in enumerate(students):
        color = svg.COLORS[i] if colored else svg.INK
        faint: dict[str, Any] = dict(linewidth=1.0, alpha=0.8 if colored else 0.25)
        values += _draw(axes, lines, key, color=color, **faint)
        if colored:
            axes.plot([], [], color=color, label=key.rpartition("/")[2])
    color = svg.INK if students else svg.COLORS[0]
    values += _draw(axes, lines, first, color=color, linewidth=1.5)
    if students and colored:
        axes.plot([], [], color=svg.INK, label="all")
        _legend(axes)
    if min(values) > 0 and max(values) > LOG_RANGE * min(values):
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step", color=svg.INK, fontsize=svg.SIZE)
    alt, salt = f"{stage}, {_alt(lines, curve)}", f"{stage} {curve.name}"
    return svg.text(figure, alt=alt, salt=salt)


def _draw(axes, lines, key: str, **style) -> list[float]:
    steps, values = zip(*_points(lines, key), strict=True)
    axes.plot(steps, values, **style)
    return [value for value in values if math.isfinite(value)]


def _legend(axes) -> None:
    """The students by number, in the margin above the plot."""
    place: dict[str, Any] = dict(loc="lower left", bbox_to_anchor=(0, 0.97))
    tight = dict(handlelength=1.0, handletextpad=0.4, columnspacing=1.0, borderpad=0)
    letters: dict[str, Any] = dict(fontsize=svg.SIZE - 2, labelcolor=svg.INK)
    axes.legend(frameon=False, ncols=MAX_COLORED + 1, **place, **tight, **letters)


def _alt(lines, curve: Curve) -> str:
    points = [(s, v) for s, v in _points(lines, curve.name) if math.isfinite(v)]
    (first, start), (last, end) = points[0], points[-1]
    text = f"{curve.name}: {start:.4g} at step {first}, {end:.4g} at step {last}"
    several = len(curve.lines) - 1
    return f"{text}; also of each of {several} students" if several else text


def _matters(name: str) -> bool:
    last = [part for part in name.split("/") if not part.isdigit()][-1]
    return not last.endswith("norm")


def _students(name: str, drawn: Sequence[str]) -> Iterator[str]:
    for other in drawn:
        stem, _, student = other.rpartition("/")
        if stem == name and student.isdigit():
            yield other


def _points(lines, name) -> list[tuple[int, float]]:
    """(step, value) pairs; NaN stays and interrupts the line, and does not count."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    return found if sum(math.isfinite(value) for _, value in found) > 1 else []
