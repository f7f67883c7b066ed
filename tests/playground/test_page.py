"""The page of a demo in a real browser: the picture that it shows is the student's."""

import base64
import io
import socket
import urllib.request

import browser
import numpy as np
import pytest
from PIL import Image
from test_sides import Side, Sides, save

from kdiff_jax.errors import ConfigError
from kdiff_jax.playground import page, side_by_side

# The pixels of an image of the page, as it came.
PIXELS = """(async () => {
  const shown = document.querySelector("#image_%s img");
  const bytes = new Uint8Array(await (await fetch(shown.src)).arrayBuffer());
  return btoa(String.fromCharCode(...bytes));
})()"""
TOLD = 'document.querySelector("#told_%s").innerText'


def test_without_gradio_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(page.importlib.sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"pip install 'kdiff_jax\[demo\]'"):
        page.gradio()


@pytest.mark.parametrize(
    ("host", "password", "auth"),
    [
        ("127.0.0.1", None, None),
        ("localhost", None, None),
        ("::1", None, None),
        ("0.0.0.0", "open sesame", ("kdiff", "open sesame")),
        ("127.0.0.1", "open sesame", ("kdiff", "open sesame")),
    ],
)
def test_who_may_use_the_page(host, password, auth):
    assert page.auth(host, password) == auth


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "node1"])
@pytest.mark.parametrize("password", [None, ""])
def test_others_need_a_password(host, password):
    with pytest.raises(ConfigError, match="set KDIFF_DEMO_PASSWORD, or leave --host"):
        page.auth(host, password)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(what makes the images, address of the page)."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("models")
    save(folder / "teacher", 0, 4)
    save(folder / "student", 1, 1)
    sides = Sides(*(Side(name, folder / name) for name in side_by_side.TITLES))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    made = page.make(sides, "tiny")
    page.serve(made, host="127.0.0.1", port=port, auth=None)
    yield sides, f"http://127.0.0.1:{port}/"
    made.close()


@pytest.mark.slow
def test_the_browser_shows_what_was_asked_for(served, tmp_path):
    if browser.PATH is None:
        pytest.skip(f"no browser: install one of {', '.join(browser.NAMES)}")
    sides, address = served
    with browser.opened(tmp_path / "user") as window:
        window.call("Page.navigate", url=address)
        window.wait_for('document.querySelector("#image_teacher img")?.naturalWidth')
        assert_shown(window, sides.show(0, seed=0))
        before = window.run(PIXELS % "student")
        type_into(window, "Seed", "7")
        window.run('document.querySelector("#make").click()')
        window.wait_for(f"{PIXELS % 'student'}.then(now => now !== {before!r})")
        window.wait_for("!document.querySelector('.generating, .pending')")
        assert_shown(window, sides.show(0, seed=7))
        assert window.run(TOLD % "student").startswith("student: 1 step, ")
        fetched = window.run(
            'performance.getEntriesByType("resource").map(entry => entry.name)'
        )
        assert [url for url in fetched if not url.startswith((address, "data:"))] == []
        for width in (400, 1280):
            path = tmp_path / f"{width}.png"
            window.picture(path, width, 900)
            needed = window.run("document.documentElement.scrollWidth")
            assert needed <= width and Image.open(path).width == width


def assert_shown(window, shown):
    for one in shown:
        data = base64.b64decode(window.run(PIXELS % one.title))
        seen = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(seen, side_by_side.picture(one.image)), one.title


def type_into(window, label, text):
    window.run(f"""(() => {{
      const labels = [...document.querySelectorAll("label")];
      const found = labels.find(one => one.innerText.trim() === "{label}");
      const input = found.querySelector("input");
      input.focus(); input.select();
    }})()""")
    window.call("Input.insertText", text=text)


@pytest.mark.slow
def test_mistakes_are_told_over_http_and_files_of_the_machine_are_not(served):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(served[1], verbose=False)
    _, told, _, teacher = client.predict("3", 5, 9, 0.5, api_name="/show")
    assert told.startswith("student: 1 step, ") and "4 evaluations" in teacher
    with pytest.raises(Exception, match="seed=4294967296: give an integer"):
        client.predict("3", 2**32, 9, 0.5, api_name="/show")
    for path in ("/etc/passwd", __file__):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{served[1]}gradio_api/file={path}")
