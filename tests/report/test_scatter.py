"""Named points: every name can be read, axes fit the values."""

import html.parser
import re

import pytest

from kdiff_jax.report import scatter
from kdiff_jax.report.scatter import Point

ABOUT = dict(xlabel="evaluations", ylabel="fid", salt="a")


def words(svg):
    found = []
    reader = html.parser.HTMLParser()
    reader.handle_data = lambda data: found.append(data.strip())
    reader.feed(svg)
    return [word for word in found if word]


def test_every_point_is_named_also_for_those_who_do_not_see():
    points = [
        Point("teacher, 64", 64.0, 2.0, "t", False),
        Point("student", 1.0, 3.0, "s"),
    ]
    text = scatter.plot(points, **ABOUT)
    assert {"teacher, 64", "student", "evaluations", "fid"} <= set(words(text))
    label = re.search('aria-label="([^"]*)"', text)[1]
    assert label == "fid against evaluations. teacher, 64: 64, 2; student: 1, 3"


def test_axes_are_logarithmic_where_they_span_much():
    """The counts of the points themselves are named, and no fraction of one."""
    points = [Point(str(n), float(n), 1 + 1 / n) for n in (1, 2, 35, 36, 1024)]
    found = words(scatter.plot(points, counts=True, **ABOUT))
    assert {"1", "2", "35", "1,024"} <= set(found) and found.count("36") == 1
    near = words(scatter.plot([Point("a", 3.0, 1.0), Point("b", 4.0, 1.2)], **ABOUT))
    assert "−" not in "".join(near)


@pytest.mark.parametrize(
    "values", [[0.0], [5.0], [-1.0, 0.0, 1.0], [1e-9, 1e9], [2, 2]]
)
def test_any_finite_values_are_drawn(values):
    points = [Point(f"p{i}", float(v), float(v)) for i, v in enumerate(values)]
    text = scatter.plot(points, **ABOUT)
    assert "nan" not in text and all(f"p{i}" in words(text) for i in range(len(values)))


def test_names_do_not_cover_each_other():
    boxes = []
    for place in ((0.0, 0.0), (1.0, 0.0), (2.0, 1.0)):
        costs = {
            p: scatter._cost(
                scatter._box(*place, *p, width=30, height=12), boxes, (-99, -99, 99, 99)
            )
            for p in scatter.PLACES
        }
        best = min(costs, key=costs.get)
        assert costs[best] == 0
        boxes.append(scatter._box(*place, *best, width=30, height=12))
