"""The page is one file that asks nothing of a network and trusts no text."""

import base64
import html.parser
import math

import numpy as np
import pytest
from test_summary import STUDENT, row

from kdiff_jax.report import curves, summary, svg
from kdiff_jax.report import html as page
from kdiff_jax.report.grid import save_png

EVIL = '<script>alert("&")</script>'


class Reader(html.parser.HTMLParser):
    """Tags, attributes and text, and whether every tag was closed."""

    VOID = ("meta", "img", "path", "use", "rect", "stop")
    LINKS = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")

    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.open, self.words = [], [], [], [], []
        self.elements = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(attrs)

    def _attributes(self, attrs):
        self.elements.append((self.tags[-1], dict(attrs)))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in self.LINKS:
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_png(folder / "grid.png", np.full((3, 3, 1), 9, np.uint8))
    lines = [
        {"step": i, "time": float(i), "loss": 1 / i, EVIL: float(i)}
        for i in range(1, 9)
    ]
    page.write(
        folder / "report.html",
        report=summary.make_report(EVIL, [row(stage=EVIL), STUDENT]),
        grids=[(EVIL, folder / "grid.png")],
        curves={EVIL: lines, "round_1": lines, "short": lines[:1]},
        config={"command": f"python -m kdiff_jax.main {EVIL}", EVIL: math.nan},
    )
    text = (folder / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    return folder, text, reader


def test_text_is_escaped_everywhere(written):
    _, _, reader = written
    assert "script" not in reader.tags
    # title, h1, grid, row, two plots of costs, facts, stage, its curve in both, command
    assert "".join(reader.words).count(EVIL) == 11
    assert reader.open == []


def test_nothing_is_fetched(written):
    folder, text, reader = written
    image, *inner = reader.links
    data = base64.b64decode(image.removeprefix("data:image/png;base64,"))
    assert data == (folder / "grid.png").read_bytes()
    assert all(link.startswith("#") for link in inner)
    assert "url(http" not in text and "@import" not in text


def test_the_page_itself_forbids_to_fetch_or_run_anything(written):
    _, text, reader = written
    policies = [a["content"] for tag, a in reader.elements if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "on" not in {name[:2] for _, attrs in reader.elements for name in attrs}


def test_who_does_not_see_is_told(written):
    """Pictures have texts, tables have heads for their columns and their rows."""
    _, _, reader = written
    alts = [attrs.get("alt") for tag, attrs in reader.elements if tag == "img"]
    labels = [a.get("aria-label") for tag, a in reader.elements if tag == "svg"]
    assert all(alts) and all(labels) and len(labels) == len(set(labels))
    assert "fd_pixels against evaluations of the network. <script>" in "".join(labels)
    scopes = [attrs["scope"] for tag, attrs in reader.elements if tag == "th"]
    assert scopes.count("row") == 2 and scopes.count("col") > 8
    assert reader.tags.count("caption") == reader.tags.count("table") == 1
    framed = [a for _, a in reader.elements if a.get("class") == "scroll"]
    assert [a["tabindex"] for a in framed] == ["0"]


def test_each_stage_has_its_curves_and_ids_are_unique(written):
    _, _, reader = written
    # Two metrics of two stages, one line is none, and the distance against two costs.
    assert reader.tags.count("svg") == 4 + 2
    assert len(reader.ids) == len(set(reader.ids))
    targets = {link.removeprefix("#") for link in reader.links[1:]}
    assert targets <= set(reader.ids)


def test_the_table_shows_both_and_nan(written):
    _, text, reader = written
    assert "nan" in reader.words and "0.1843" in reader.words
    assert '<tr class="teacher">' in text and '<tr class="student">' in text


def drawn(lines):
    (curve,) = curves.curves(lines)
    return curves.plot(lines, curve, stage="a")


def test_the_same_run_gives_the_same_curves():
    lines = [{"step": i, "loss": float(i)} for i in range(5)]
    assert drawn(lines) == drawn(lines)


def test_curves_take_the_colours_of_the_page_and_a_fitting_axis():
    falling = [{"step": i, "loss": 10.0**-i} for i in range(4)]
    text = drawn(falling)
    assert "currentColor" in text and svg.INK not in text
    assert "−" in text  # a logarithmic axis names its powers
    assert "−" not in drawn([{"step": i, "loss": 1 + 10.0**-i} for i in range(4)])


def test_nan_interrupts_a_curve_and_alone_is_none():
    lines = [{"step": i, "time": 0.0, "images": i} for i in range(4)]
    for line, a in zip(lines, (1.0, math.nan, 2.0, 3.0), strict=True):
        line |= {"a": a, "b": math.nan}
    assert [curve.name for curve in curves.curves(lines)] == ["a"]
    assert "nan" not in drawn(lines).lower()


def test_curves_of_clocks_and_counters_are_none_and_students_share_one():
    """Norms are shown on demand alone, and the speed is shown."""
    values = ("images", "train_seconds", "images_per_second", "kd/grad_norm")
    values += ("kd/loss", "kd/loss/0", "kd/loss/1", "held_out_loss", "kd/grad_norm/0")
    lines = [dict.fromkeys(values, 1.0 + i) | {"step": i} for i in range(3)]
    found = {c.name: (c.matters, c.lines) for c in curves.curves(lines)}
    assert found == {
        "images_per_second": (True, ("images_per_second",)),
        "kd/grad_norm": (False, ("kd/grad_norm",)),
        "kd/loss": (True, ("kd/loss", "kd/loss/0", "kd/loss/1")),
        "held_out_loss": (True, ("held_out_loss",)),
    }
    text = page._stage("a", lines)
    places = [text.index(f"<figcaption>{name}") for name in ("images_per", "kd/grad")]
    assert places[0] < text.index("<summary>Norms of gradients") < places[1]
    loss = next(c for c in curves.curves(lines) if c.name == "kd/loss")
    text = curves.plot(lines, loss, stage="a")
    assert "also of each of 2 students" in text and ">all<" in text
