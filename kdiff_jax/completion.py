"""Completion of `kdiff` in shells, read off the sources of the commands.

A shell asks `kdiff --complete SHELL LINE` what may follow; nothing is imported for it.
"""

import ast
import pathlib
from collections.abc import Iterator, Mapping

from kdiff_jax import provided

SCRIPTS = {
    # Bash takes `=` for the end of a word, so that what stands before it is not given.
    "bash": """\
_kdiff() {
  local IFS=$'\\n'
  COMPREPLY=($(kdiff --complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
  [[ ${#COMPREPLY[@]} -gt 0 && $COMPREPLY != *= ]] && compopt +o nospace
}
complete -o nospace -o default -F _kdiff kdiff
""",
    "zsh": """\
#compdef kdiff
_kdiff() {
  local -a found=(${(f)"$(kdiff --complete zsh "$LBUFFER" 2>/dev/null)"})
  if (( $#found )); then compadd -S '' -- $found; else _files; fi
}
compdef _kdiff kdiff
""",
}


def script(words: list[str]) -> tuple[str, int]:
    """(the script of a shell or what is wrong, the exit code)."""
    if len(words) != 1 or words[0] not in SCRIPTS:
        given = " ".join(words) or "none"
        return f"kdiff completion {given}: give bash or zsh", 2
    return SCRIPTS[words[0]], 0


def words(asked: list[str], sources: Mapping[str, pathlib.Path | None]) -> list[str]:
    """What may stand in the place of the last word of a line.

    Args:
        asked: The shell, and the line up to the cursor.
        sources: The file of each command; None where it is not there.
    """
    if len(asked) != 2:
        return []
    shell, line = asked
    before, last = line.split()[1:], ""
    if before and not line[-1].isspace():
        last = before.pop()
    commands = [name for name, path in sources.items() if path]
    if not before and not last.startswith("-"):
        found = [*commands, "completion"]
    elif before == ["completion"]:
        found = list(SCRIPTS)
    else:
        chosen = before[0] if before and before[0] in commands else "train"
        found = _of_command(sources[chosen], last)
    found = [word for word in found if word.startswith(last)]
    if shell == "bash":
        cut = last.rfind("=") + 1
        found = [word[cut:] for word in found]
    return found


def _of_command(path: pathlib.Path | None, last: str) -> list[str]:
    """Options of a command, or the values of the one that is being written."""
    found: dict[str, list[str]] = {"--help": []}
    for source in (path, pathlib.Path(__file__).with_name("command.py")):
        found |= dict(_flags(source) if source else ())
    if "--config=" in found:
        found["--config="] = provided.names()
    option = last.partition("=")[0] + "="
    return [option + value for value in found.get(option, ())] or list(found)


def _flags(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """(option, the values that it may have, if they are few) of each `DEFINE_...`.

    An option ends with `=` if a value follows.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(ast.Attribute(attr=kind), [ast.Constant(name), *rest]):
                pass
            case _:
                continue
        if kind in ("DEFINE_bool", "DEFINE_boolean"):
            yield f"--{name}", []
        elif kind.startswith("DEFINE_"):
            listed = rest[1].elts if isinstance(rest[1], ast.List) else []
            values = [e.value for e in listed if isinstance(e, ast.Constant)]
            yield f"--{name}=", [str(value) for value in values]
