"""Each notebook runs in small, and holds the outputs of one whole run."""

import ast
import base64
import io
import os
import pathlib
import re
import sys

import jax
import nbclient
import nbformat
import pytest
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
# Half as long to compile as the smallest U-Net.
DIT = {"name": "dit", "channels": 16, "num_blocks": 1, "num_heads": 1, "patch_size": 4}
SMALL = {
    "distil_digits": {
        "NETWORK": DIT,
        "TEACHER_STEPS": 2,
        "NUM_PAIRS": 64,
        "STUDENT_STEPS": 2,
        "STEPS": (1, 2),
        "NUM_IMAGES": 80,
    },
    "edm_teacher": {
        "CHANNELS": 8,
        "TEACHER_STEPS": 2,
        "NUM_PAIRS": 10,
        "STUDENT_STEPS": 2,
    },
    "many_students": {
        "NETWORK": DIT,
        "TEACHER_STEPS": 2,
        "STUDENT_STEPS": 1,
        "NUM_IMAGES": 80,
    },
    "own_method": {"WIDTH": 8, "NUM_STEPS": 3, "NUM_LEVELS": 4, "NUM_POINTS": 50},
}
MOST_BYTES = 300_000
# A folder of whoever ran it: /home/me/..., C:\Users\me.
PLACE = re.compile(r"(?<![\w.:/])/\w+/\w+|[A-Z]:\\\w+|~/\w+")


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


@pytest.fixture
def small(request, notebook):
    """The notebook with small sizes, set in a cell behind those of its own."""
    name = request.node.callspec.params["notebook"]
    (place,) = (
        i
        for i, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    )
    own = ast.parse(notebook.cells[place].source).body
    named = {node.targets[0].id for node in own if isinstance(node, ast.Assign)}
    assert SMALL[name].keys() <= named
    source = "\n".join(f"{key} = {value!r}" for key, value in SMALL[name].items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    return notebook


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """What a kernel needs to share the tests' compiled programs, and leave no trace."""
    cache = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", cache)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    root = str(FOLDER.parents[1])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return tmp_path


def test_it_runs(small, elsewhere):
    resources = {"metadata": {"path": str(elsewhere)}}
    nbclient.NotebookClient(small, timeout=300, resources=resources).execute()
    assert len(pictures(small)) >= 1


def test_what_is_stored_is_of_one_run_from_the_top(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    assert not [out for out in outputs(notebook) if out.output_type == "error"]
    for picture in pictures(notebook):
        assert min(Image.open(io.BytesIO(picture)).size) > 50


def test_it_is_small_and_names_no_folder_of_a_machine(notebook, request):
    file = FOLDER / f"{request.node.callspec.params['notebook']}.ipynb"
    assert file.stat().st_size < MOST_BYTES
    told = [out.get("text", "") for out in outputs(notebook)]
    told += [out.get("data", {}).get("text/plain", "") for out in outputs(notebook)]
    told += [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert not [found for text in told for found in PLACE.findall(text)]
    assert str(sys.prefix) not in file.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_site_and_its_page_of_notebooks_show_it(name):
    for shown in (FOLDER / "index.md", FOLDER.parents[1] / "mkdocs.yml"):
        assert f"{name}.ipynb" in shown.read_text()


def test_a_folder_of_a_machine_is_found():
    assert PLACE.findall("at /home/me/digits") and PLACE.findall(r"C:\Users\me")
    assert not PLACE.findall("dmd2/loss, runs/digits, 3 / 4, https://a.org/b/c")


def outputs(notebook):
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [out for cell in cells for out in cell.outputs]


def pictures(notebook) -> list[bytes]:
    found = (out.get("data", {}).get("image/png") for out in outputs(notebook))
    return [base64.b64decode(text) for text in found if text]
