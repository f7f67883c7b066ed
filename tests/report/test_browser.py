"""The page in a real browser, as wide as a phone and as a screen.

Chromium opens both at once, in frames of a page that looks at them: whether anything is
wider than its frame, what was fetched, what was said on the console.
"""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_html import EVIL
from test_summary import STUDENT, row

from kdiff_jax.report import html as page
from kdiff_jax.report import summary
from kdiff_jax.report.grid import save_png

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = 400, 1280
LOOK = """
const found = [...document.querySelectorAll("iframe")].map(frame => {
  const inner = frame.contentDocument, root = inner.documentElement;
  const parts = [...inner.querySelectorAll("body *")];
  const framed = part => part.closest(".scroll, svg");
  return {width: root.clientWidth, needed: root.scrollWidth,
    over: parts.filter(p => !framed(p) && p.getBoundingClientRect().right >
      root.clientWidth + 1).map(p => p.tagName),
    tables: inner.querySelectorAll("table").length,
    pictures: [...inner.images].map(image => image.naturalWidth),
    fetched: frame.contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:"))};
});
document.querySelector("#found").textContent = JSON.stringify(found);
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(what was found at each width, the console)."""
    if BROWSER is None:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)} (apt: chromium)")
    folder = tmp_path_factory.mktemp("run")
    save_png(folder / "grid.png", np.full((300, 1500, 3), 9, np.uint8))
    many = {f"fd_inf_resnet{i}": i + 0.5 for i in range(9)}
    student = STUDENT | {"stage": EVIL * 3, "num_students": 2}
    student |= {"partition": {"groups": [list(range(0, 100, 2))], "borders": []}}
    student["partition"]["groups"] += [list(range(1, 100, 2))]
    lines = [{"step": i, "kd/loss": 1 / i, EVIL * 9: float(i)} for i in range(1, 9)]
    page.write(
        folder / "report.html",
        report=summary.make_report("x" * 90, [row(metrics=many), student]),
        grids=[("Same noise", folder / "grid.png")],
        curves={"student": lines},
        config={
            "command": "python " + "--config.a_very_long_option=1 " * 30 + "y" * 200
        },
    )
    text = html.escape((folder / "report.html").read_text())
    frames = "".join(
        f'<iframe style="border:0;width:{w}px;height:900px" srcdoc="{text}"></iframe>'
        for w in WIDTHS
    )
    looks = f"<pre id=found></pre>{frames}<script>onload = () => {{{LOOK}}}</script>"
    (folder / "looks.html").write_text(f"<meta charset=utf-8>{looks}")
    options = ["--headless", "--disable-gpu", "--no-first-run", "--dump-dom"]
    options += ["--enable-logging=stderr", f"--user-data-dir={folder / 'user'}"]
    options += ["--no-sandbox"] * (os.getuid() == 0)  # root may not have one
    command = [BROWSER, *options, (folder / "looks.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert told, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(told[1])), console


def test_the_page_is_no_wider_than_a_phone_or_a_screen(seen):
    """Wide tables scroll in frames of their own."""
    for found, width in zip(seen[0], WIDTHS, strict=True):
        assert width - 20 <= found["width"] <= width  # less a bar to scroll
        assert found["needed"] == found["width"] and found["over"] == []
        assert found["tables"] == 2


def test_nothing_is_fetched_nothing_is_wrong_and_pictures_show(seen):
    found, console = seen
    assert [one["fetched"] for one in found] == [[], []] and console == []
    assert [one["pictures"] for one in found] == [[1500], [1500]]
