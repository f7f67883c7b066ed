"""Every example of a docstring prints what it says, alone and as it stands."""

import ast
import doctest
import functools
import pathlib
import re

import examples
import pytest

import kdiff_jax

PACKAGE = pathlib.Path(kdiff_jax.__path__[0])
OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef)
PROMPT = ">>> "


def found_in(file: pathlib.Path) -> list[doctest.DocTest]:
    """Examples of a file, each with names of its own: a reader copies one of them."""
    text, parser, found = file.read_text(), doctest.DocTestParser(), []
    for owner in ast.walk(ast.parse(text)) if PROMPT in text else ():
        if isinstance(owner, OWNERS) and PROMPT in (ast.get_docstring(owner) or ""):
            docstring = owner.body[0].value
            name = f"{file.parent.name}/{file.name}:{getattr(owner, 'name', '')}"
            about = {}, name, str(file), docstring.lineno - 1
            found.append(parser.get_doctest(docstring.value, *about))
    return found


ALL = [one for file in sorted(PACKAGE.rglob("*.py")) for one in found_in(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Name in an example -> the folder that it stands for."""

    @functools.cache
    def made(name: str) -> str:
        path = tmp_path_factory.mktemp(name)
        examples.FOLDERS[name](path)
        return str(path)

    return made


@pytest.mark.parametrize("example", ALL, ids=lambda one: one.name)
def test_an_example_prints_what_it_says(example, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = examples.FOLDERS.keys() & set(re.findall(r"\b[A-Z]+\b", example.docstring))
    example.globs.update({name: folder(name) for name in named})
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_an_example_that_prints_something_else_is_found(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text('def two():\n    """\n    >>> 1 + 1\n    3\n    """')
    (example,) = found_in(file)
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed
    assert "Expected:\n    3\nGot:\n    2" in "".join(said)
