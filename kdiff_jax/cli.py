"""The console script `kdiff`: commands by name, without what they import.

`kdiff train ...` is `python -m kdiff_jax.main ...`, each other one the module of its
name; options without a command are those of `train`.
"""

import ast
import difflib
import importlib.util
import pathlib
import runpy
import sys

from kdiff_jax import __version__, completion

# The modules; one that is not there is not shown.
COMMANDS = {
    "train": "main",
    "sample": "sample",
    "evaluate": "evaluate",
    "convert": "convert",
    "export": "export",
    "watch": "watch",
    "demo": "demo",
    "doctor": "doctor",
    "cache": "cache",
}


def run() -> None:
    """Runs `sys.argv`, and ends with the exit code of the command."""
    word, *rest = sys.argv[1:] or ["--help"]
    if word in ("--help", "-h", "help"):
        print(_help())
    elif word == "--version":
        print(f"kdiff_jax {__version__}")
    elif word == "completion":
        sys.exit(_say(*completion.script(rest)))
    elif word == "--complete":
        files = {name: _source(module) for name, module in COMMANDS.items()}
        print("\n".join(completion.words(rest, files)))
    elif word.startswith("-"):
        _start("main", [word, *rest])
    elif word in COMMANDS and _source(COMMANDS[word]):
        _start(COMMANDS[word], rest)
    else:
        sys.exit(_say(f"kdiff {word}: {_unknown(word)}", 2))


def _start(module: str, words: list[str]) -> None:
    """As `python -m kdiff_jax.MODULE WORDS`."""
    sys.argv[1:] = words
    runpy.run_module(f"kdiff_jax.{module}", run_name="__main__", alter_sys=True)


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def _source(module: str) -> pathlib.Path | None:
    """The file of a command; None where it is not installed."""
    found = importlib.util.find_spec(f"kdiff_jax.{module}")
    return pathlib.Path(found.origin) if found and found.origin else None


def _unknown(word: str) -> str:
    if word in COMMANDS:
        return "is not in this installation; see kdiff --help"
    like = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {like[0]!r}?" if like else ";"
    return f"no such command{hint} kdiff --help shows all"


def _help() -> str:
    """All commands, with the first words of their modules."""
    lines = [
        "kdiff COMMAND [--option=value ...]: distillation of diffusion models\n",
        *(
            f"  {name:<10} {_summary(path)}"
            for name, module in COMMANDS.items()
            if (path := _source(module))
        ),
        "  completion Completion of commands and options: bash or zsh\n",
        "kdiff COMMAND --help shows its options. To begin with:\n",
        "  kdiff train --config=digits_student --workdir=runs/digits",
        "  kdiff sample --checkpoint=runs/digits/student --output=digits.png",
    ]
    return "\n".join(lines)


def _summary(path: pathlib.Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(": python -m")[0].rstrip(".")


if __name__ == "__main__":
    run()
