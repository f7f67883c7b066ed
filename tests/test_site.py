"""The site builds; what its API pages show has arguments, errors and an example."""

import ast
import functools
import re
import subprocess
import sys
import textwrap
import zlib

import pytest
from test_docs import PACKAGE, ROOT

pytest.importorskip("mkdocstrings")
import griffe  # noqa: E402  # which mkdocstrings reads the source with

SHOWN = re.compile(r"^(\S+) py:(?:class|function|method) 1 (api/\w+\.html)", re.M)
NAMED = re.compile(r"^::: (\S+)\n    options:[\s{]+members: \[(.*)\]", re.M)
HEADING = re.compile(r"^([A-Z][a-z]+):\n", re.M)
ENTRY = re.compile(r"^    ([\w*, ]+):", re.M)
GIVES_ERROR = re.compile(r"^def (\w+)\(.*\) -> (\w+Error):", re.M)
MADE_BY = ("__init__", "__post_init__")  # of a class, whose errors it tells


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    found = tmp_path_factory.mktemp("site")
    # Not --quiet: it leaves nothing for --strict to count.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--site-dir", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def shown(site):
    """Full name -> class or function, of all that the API pages show."""
    package = griffe.load("kdiff_jax", search_paths=[ROOT])
    packed = (site / "objects.inv").read_bytes().partition(b"using zlib.\n")[2]
    names = dict(SHOWN.findall(zlib.decompress(packed).decode()))
    assert len(set(names.values())) == len([*(ROOT / "docs/api").glob("*.md")])
    return {name: package[name.partition(".")[2]] for name in names}


def sections(found) -> dict[str, str]:
    """Heading -> text of the sections of a docstring; "" is what comes first."""
    parts = HEADING.split(found.docstring.value if found.docstring else "")
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(found, heading: str) -> set[str]:
    named = ENTRY.findall(sections(found).get(heading, ""))
    return {name.lstrip("*") for entry in named for name in entry.split(", ")}


@functools.cache
def gives_error() -> dict[str, str]:
    """Function -> name of the error that it makes for others to raise."""
    texts = [file.read_text() for file in PACKAGE.rglob("*.py")]
    return dict(pair for text in texts for pair in GIVES_ERROR.findall(text))


def raised(found) -> set[str]:
    """Names of the errors that a function or the making of an object raises."""
    tree: ast.AST = ast.parse(textwrap.dedent(found.source)).body[0]
    if isinstance(tree, ast.ClassDef):
        made = [part for part in tree.body if getattr(part, "name", "") in MADE_BY]
        tree = ast.Module(made, [])
    calls = [
        node.exc.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    names = {call.id if isinstance(call, ast.Name) else call.attr for call in calls}
    return {gives_error().get(name, name) for name in names}


def arguments(found) -> tuple[set[str], set[str]]:
    """(those of a function, or fields of a class; those that its docstring tells)."""
    if found.is_function:
        names = {p.name.lstrip("*") for p in found.parameters} - {"self", "cls"}
        return names, entries(found, "Args")
    owners = [found, *(base for base in found.mro() if base.docstring)]
    told = {name for one in owners for name in entries(one, "Attributes")}
    fields = {
        name
        for name, one in found.members.items()
        if one.is_attribute and one.annotation and name[0] != "_"
        if "property" not in one.labels
    }
    return fields, told


def has_example(name: str, shown) -> bool:
    """Of its own, or, of a method, in that of its class."""
    owner, _, method = name.rpartition(".")
    texts = [
        sections(shown[one]).get("Examples", "")
        for one in (name, owner)
        if one in shown
    ]
    return ">>> " in texts[0] or f".{method}(" in texts[-1]


def test_pages_and_signatures_are_there(site):
    api = (site / "api/methods.html").read_text()
    assert "student_every" in api and "<h1" in (site / "index.html").read_text()


def test_what_a_page_names_is_shown(shown):
    named = []
    for page in (ROOT / "docs/api").glob("*.md"):
        for module, members in NAMED.findall(page.read_text()):
            named += [f"{module}.{member}" for member in members.split(", ")]
    assert sorted(set(named) - set(shown)) == [] and len(named) > 100


def test_notebooks_are_pages_with_their_pictures(site):
    page = (site / "notebooks/own_method.html").read_text()
    pictures = re.findall(r'src="(source/own_method/\w+\.png)"', page)
    assert pictures and all((site / "notebooks" / p).is_file() for p in pictures)


def test_all_that_is_shown_has_an_example(shown):
    assert [name for name in shown if not has_example(name, shown)] == []


def test_all_arguments_are_told(shown):
    both = {name: arguments(found) for name, found in shown.items()}
    assert [(n, a) for n, (own, told) in both.items() for a in own - told] == []


def test_all_errors_are_told(shown):
    both = {name: (raised(one), entries(one, "Raises")) for name, one in shown.items()}
    assert [(n, e) for n, (own, told) in both.items() for e in own - told] == []


def test_what_is_untold_is_found():
    text = """
        from kdiff_jax import registry

        def load(path, size):
            '''A set.

            Args:
                path: The file.

            Raises:
                DataError: If it is missing.
            '''
            if size:
                raise registry.unknown("size", size, ())
            raise DataError(path)
        """
    with griffe.temporary_visited_module(textwrap.dedent(text)) as module:
        load = module["load"]
        assert arguments(load) == ({"path", "size"}, {"path"})
        assert raised(load) - entries(load, "Raises") == {"ConfigError"}
        assert not has_example("load", {"load": load})


def test_docstrings_are_shown_as_they_are_meant(site):
    """No section is a fold, no example a quotation, and no table its characters."""
    pages = [page.read_text() for page in (site / "api").glob("*.html")]
    kinds = {k for page in pages for k in re.findall(r'<details class="([\w-]+)', page)}
    assert kinds == {"mkdocstrings-source"}
    assert not any("<blockquote>" in page or ">=====" in page for page in pages)
