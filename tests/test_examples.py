"""Every example of a docstring prints what it says, alone and as it stands."""

import ast
import doctest
import functools
import pathlib

import clip_files
import pipeline_files
import pytest

import kdiff_jax

PACKAGE = pathlib.Path(kdiff_jax.__path__[0])
OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef)
PROMPT = ">>> "
# Folders that examples read, as the site says: of a pipeline, and of a whole CLIP.
FOLDERS = {
    "FOLDER": lambda path: pipeline_files.folder(path, "sd1"),
    "CLIP": clip_files.folder,
}


def examples(file: pathlib.Path) -> list[doctest.DocTest]:
    """Those of a file, each with names of its own: a reader copies one of them."""
    text, parser, found = file.read_text(), doctest.DocTestParser(), []
    for owner in ast.walk(ast.parse(text)) if PROMPT in text else ():
        if isinstance(owner, OWNERS) and PROMPT in (ast.get_docstring(owner) or ""):
            docstring: ast.expr = owner.body[0].value
            name = f"{file.relative_to(PACKAGE)}:{getattr(owner, 'name', '')}"
            first = docstring.lineno - 1
            found.append(
                parser.get_doctest(docstring.value, {}, name, str(file), first)
            )
    return found


EXAMPLES = [one for file in sorted(PACKAGE.rglob("*.py")) for one in examples(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """name -> the folder that it stands for in examples."""
    return functools.cache(
        lambda name: str(FOLDERS[name](tmp_path_factory.mktemp(name)))
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.name)
def test_an_example_prints_what_it_says(example, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in FOLDERS:
        if f"({name}" in example.docstring:
            example.globs[name] = folder(name)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_an_example_that_prints_something_else_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "wrong.py").write_text(
        'def two():\n    """\n    >>> 1 + 1\n    3\n    """'
    )
    (example,) = examples(tmp_path / "wrong.py")
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed
    assert "Expected:\n    3\nGot:\n    2" in "".join(said)
