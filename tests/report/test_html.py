"""The page is one file that asks nothing of a network and trusts no text."""

import base64
import html.parser
import math

import numpy as np
import pytest
from test_summary import STUDENT, row

from kdiff_jax.report import curves, summary
from kdiff_jax.report import html as page
from kdiff_jax.report.grid import save_png

EVIL = '<script>alert("&")</script>'


class Reader(html.parser.HTMLParser):
    """Tags, attributes and text, and whether every tag was closed."""

    VOID = ("meta", "img", "path", "use", "rect", "stop")

    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.open, self.words = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(attrs)

    def _attributes(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
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
    assert "".join(reader.words).count(EVIL) == 8  # title, h1, command, row, grid, ...
    assert reader.open == []


def test_nothing_is_fetched(written):
    folder, text, reader = written
    image, *inner = reader.links
    data = base64.b64decode(image.removeprefix("data:image/png;base64,"))
    assert data == (folder / "grid.png").read_bytes()
    assert all(link.startswith("#") for link in inner)
    assert "url(http" not in text and "@import" not in text


def test_each_stage_has_its_curves_and_ids_are_unique(written):
    _, _, reader = written
    assert reader.tags.count("svg") == 4  # two metrics of two stages; one line is none
    assert len(reader.ids) == len(set(reader.ids))
    targets = {link.removeprefix("#") for link in reader.links[1:]}
    assert targets <= set(reader.ids)


def test_the_table_shows_both_and_nan(written):
    _, text, reader = written
    assert "nan" in reader.words and "0.1843" in reader.words
    assert '<tr class="teacher">' in text and '<tr class="student">' in text


def test_the_same_run_gives_the_same_curves():
    lines = [{"step": i, "loss": float(i)} for i in range(5)]
    assert curves.svg(lines, "loss", salt="a") == curves.svg(lines, "loss", salt="a")


def test_curves_take_the_colours_of_the_page_and_a_fitting_axis():
    falling = [{"step": i, "loss": 10.0**-i} for i in range(4)]
    text = curves.svg(falling, "loss", salt="a")
    assert "currentColor" in text and curves.INK not in text
    assert "−" in text  # a logarithmic axis names its powers
    assert "−" not in curves.svg(
        [{"step": i, "loss": 1 + 10.0**-i} for i in range(4)], "loss", salt="a"
    )


def test_nan_interrupts_a_curve_and_alone_is_none():
    lines = [{"step": i, "time": 0.0, "images": i} for i in range(4)]
    for line, a in zip(lines, (1.0, math.nan, 2.0, 3.0), strict=True):
        line |= {"a": a, "b": math.nan}
    assert curves.names(lines) == ["a"]
    assert "nan" not in curves.svg(lines, "a", salt="a").lower()
