"""What the documentation names is there."""

import ast
import functools
import pathlib
import re

import pytest

import kdiff_jax
from kdiff_jax import cli

PACKAGE = pathlib.Path(kdiff_jax.__path__[0])
ROOT = PACKAGE.parent
DOCS = ROOT / "docs"
PAGES = (*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
LINK = re.compile(r"\]\(([^)\s#,]+)(?:#[^)\s]*)?\)")
FILE = re.compile(r"\b(?:configs|launch|benchmarks)/\w+\.(?:py|sh)\b(?!_)")
RECIPE = re.compile(r"\b(configs/[a-z]\w*\.py):(\w+)")
NAMES = "|".join(cli.COMMANDS)
COMMAND = re.compile(rf"(?:-m kdiff_jax\.([a-z]\w*)|\bkdiff ({NAMES}))\b([^`|]*)")
FLAG = re.compile(r"(?<!\S)--([a-z]\w*)((?:\.\w+)*)")
DEFINED = re.compile(r'DEFINE_\w+\(\s*"(\w+)"')
SECTION = re.compile(r'options\.section\("(\w+)"\)')


def names(paths) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.fixture(params=PAGES, ids=names(PAGES))
def page(request) -> pathlib.Path:
    return request.param


def test_links_lead_somewhere(page):
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_python_can_be_parsed(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        ast.parse(block)


def test_recipes_scripts_and_benchmarks_are_there(page):
    text = page.read_text()
    named = {t for t in FILE.findall(text) if not t.split("/")[1][0].isupper()}
    assert [t for t in sorted(named) if not (ROOT / t).is_file()] == []
    shared = (ROOT / "configs/common.py").read_text()
    for path, size in RECIPE.findall(text):
        known = shared + (ROOT / path).read_text()
        assert re.search(rf"[\"'`:]{size}\b", known), f"{path}:{size}"


@functools.cache
def flags(command: str) -> tuple[frozenset[str], frozenset[str]]:
    """(flags, sections of keywords) of a command, read off its source."""
    texts = [(PACKAGE / f"{name}.py").read_text() for name in (command, "command")]
    defined = {name for text in texts for name in DEFINED.findall(text)}
    sections = {name for text in texts for name in SECTION.findall(text)}
    return frozenset(defined | {"help", *absl_booleans(texts)}), frozenset(sections)


def absl_booleans(texts) -> set[str]:
    """--noNAME of the flags that are either."""
    found = (re.findall(r'DEFINE_bool\(\s*"(\w+)"', text) for text in texts)
    return {f"no{name}" for names in found for name in names}


def commands(text: str):
    """(module, its arguments) of each command line, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        for module, name, rest in COMMAND.findall(line):
            yield module or cli.COMMANDS[name], rest


def test_flags_of_commands_are_there(page):
    wrong = []
    for name, rest in commands(page.read_text()):
        if not (PACKAGE / f"{name}.py").is_file():
            wrong.append(f"kdiff_jax.{name}")
            continue
        defined, sections = flags(name)
        for flag, keys in FLAG.findall(rest):
            keyed = flag in sections or (name, flag) == ("main", "config")
            if flag not in defined and not (keys and keyed):
                wrong.append(f"kdiff_jax.{name} --{flag}{keys}")
    assert wrong == []


def test_a_flag_that_is_not_there_is_found():
    ((name, rest),) = commands("python -m kdiff_jax.sample \\\n --sampler=x --mode=y")
    assert (name, [f for f, _ in FLAG.findall(rest)]) == ("sample", ["sampler", "mode"])
    assert "sampler" in flags(name)[0] and "mode" not in flags(name)[0]
    assert [*commands("kdiff train --dryrun")] == [("main", " --dryrun")]


def _texts(node: ast.AST):
    """Strings of the source; "\\0" stands for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"%(?:\.\d+)?[sdf]", "\0", node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = (getattr(v, "value", "\0") for v in node.values)
        yield "".join(p if isinstance(p, str) else "\0" for p in parts)


@functools.cache
def messages() -> str:
    trees = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    found = (text for tree in trees for node in ast.walk(tree) for text in _texts(node))
    return "\1".join(" ".join(text.split()) for text in found)


QUOTED = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def quoted(path: pathlib.Path, heading: str = "") -> list[str]:
    return QUOTED.findall(path.read_text().partition(heading)[2])


MESSAGES = [
    *quoted(DOCS / "troubleshooting.md", "## Command line"),
    *quoted(DOCS / "healthy.md", "## What the program itself says"),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_those_of_the_program(message):
    assert re.sub(r"<[^<>]+>", "\0", message) in messages()


ARGUMENT = re.compile(r"^ +(\w[\w*, ]*): (?:Of|Whose)\b", re.M)


def described(tree: ast.AST):
    """(line, what is described by "Of" or "Whose") of docstrings and of flags."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            text = ast.get_docstring(node) or ""
            line = getattr(node, "lineno", 1)
            yield from ((line, name) for name in ARGUMENT.findall(text))
        name = getattr(getattr(node, "func", None), "attr", "")
        if isinstance(node, ast.Call) and name.startswith("DEFINE_"):
            texts = [text for part in node.args[2:] for text in _texts(part)]
            wrong = [text for text in texts if re.match(r"(?:Of|Whose)\b", text)]
            yield from ((node.lineno, text) for text in wrong)


def test_descriptions_are_noun_phrases():
    """Never "Of the sampler": an argument and a flag are named by what they are."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path, tree in trees.items()
        for line, what in described(tree)
    ]
    assert wrong == []


def test_a_description_that_is_none_is_found():
    flag = 'X = flags.DEFINE_integer("seed", 1, "Of the noise.", lower_bound=0)'
    text = 'def f(k, n):\n    """Sum.\n\n    Args:\n        k, n: Whose sum.\n    """'
    assert [what for _, what in described(ast.parse(flag))] == ["Of the noise."]
    assert [what for _, what in described(ast.parse(text))] == ["k, n"]
