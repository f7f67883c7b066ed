"""The console script: commands from one table, found and completed without imports."""

import shutil
import subprocess
import sys

import pytest

from kdiff_jax import cli, completion, provided

BARE = """
import sys
from kdiff_jax import cli
sys.argv = ["kdiff", *sys.argv[1:]]
cli.run()
assert not {"jax", "numpy", "absl"} & set(sys.modules)
"""


def said(monkeypatch, capsys, *words):
    """(exit code, output, errors) of `kdiff WORDS`."""
    monkeypatch.setattr(sys, "argv", ["kdiff", *words])
    try:
        code = cli.run()
    except SystemExit as end:
        code = end.code
    return code or 0, *capsys.readouterr()


@pytest.fixture
def ran(monkeypatch):
    """What is run: (module, words)."""
    found = []

    def run_module(name, **_):
        found.append((name, sys.argv[1:]))

    monkeypatch.setattr(cli.runpy, "run_module", run_module)
    return found


def test_help_imports_nothing_and_tells_each_command():
    result = subprocess.run(
        [sys.executable, "-c", BARE], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for name in ("train", "sample", "evaluate", "convert", "export", "cache"):
        assert f"\n  {name} " in result.stdout
    assert "sample     Images from a model\n" in result.stdout


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["train", "--config=a", "--dryrun"], "main"),
        (["--config=a", "--dryrun"], "main"),  # as it was without commands
        (["sample", "--config=a", "--dryrun"], "sample"),
        (["cache", "--config=a", "--dryrun"], "cache"),
    ],
)
def test_a_command_is_its_module(words, module, ran, monkeypatch, capsys):
    assert said(monkeypatch, capsys, *words)[0] == 0
    assert ran == [(f"kdiff_jax.{module}", ["--config=a", "--dryrun"])]


def test_what_is_no_command_is_one_line(ran, monkeypatch, capsys):
    code, _, errors = said(monkeypatch, capsys, "sampel")
    assert (code, ran) == (2, [])
    assert errors == (
        "kdiff sampel: no such command; did you mean 'sample'? kdiff --help shows all\n"
    )
    monkeypatch.setitem(cli.COMMANDS, "sing", "sing")  # of another installation
    code, _, errors = said(monkeypatch, capsys, "sing")
    assert code == 2 and errors.startswith("kdiff sing: is not in this installation")
    code, output, _ = said(monkeypatch, capsys)
    assert code == 0 and "sing" not in output and "sample" in output
    assert said(monkeypatch, capsys, "completion", "fish")[0] == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kdiff ev", ["evaluate"]),
        ("kdiff sample --prec", ["--precision="]),
        ("kdiff sample --precision=", ["float32", "bfloat16"]),
        ("kdiff train --config=digits_st", ["digits_student"]),
        ("kdiff train --config=configs/", []),
        ("kdiff --dr", ["--dryrun"]),
        ("kdiff sample nonsense", []),
        ("kdiff completion z", ["zsh"]),
    ],
)
def test_bash_completes(line, expected):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = (
        f'kdiff() {{ {sys.executable} -m kdiff_jax.cli "$@"; }}\n'
        f"{completion.SCRIPTS['bash']}\n"
        f"COMP_LINE={line!r} COMP_POINT={len(line)}; compopt() {{ :; }}; _kdiff kdiff\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.stdout.split() == expected, result.stderr


def test_zsh_gets_whole_words():
    sources = {"sample": cli._source("sample"), "train": cli._source("main")}
    asked = ["zsh", "kdiff sample --precision=f"]
    assert completion.words(asked, sources) == ["--precision=float32"]


def test_recipes_have_names():
    names = provided.names()
    assert "digits_student" in names and "common" not in names
    file = provided.find("digits_student")
    assert file is not None and file.name == "digits_student.py"
    assert provided.find("configs/digits_student") == file
    assert provided.find("configs/digits_student.py") == file
    for none in ("other/digits_student", "nothing", "", "."):
        assert provided.find(none) is None
