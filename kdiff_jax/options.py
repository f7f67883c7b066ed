"""Options that are the keywords of a function: `--sampler.KEY=VALUE` of a command.

The function says which keywords there are, with their types and ranges, so that a new
one needs no flag.
"""

import ast
import contextlib
import re
from collections.abc import Sequence
from typing import Any

from kdiff_jax.errors import ConfigError, UserError

_SECTIONS: dict[str, dict[str, Any]] = {}


def section(name: str) -> dict[str, Any]:
    """The keywords given as --NAME.KEY=VALUE, once the command line has been parsed."""
    return _SECTIONS.setdefault(name, {})


def take(argv: Sequence[str]) -> list[str]:
    """The command line without the options of sections, whose values are noted.

    Args:
        argv: Words; as with other flags, one or two dashes, and `=` or a space before
            the value. An option without a value is True.

    Raises:
        ConfigError: If one is given twice with different values.
    """
    rest: list[str] = []
    for values in _SECTIONS.values():
        values.clear()
    words = list(argv)
    while words:
        word = words.pop(0)
        found = re.fullmatch(r"--?(\w+)\.(\w+)(?:=(.*))?", word, flags=re.DOTALL)
        if not found or found[1] not in _SECTIONS:
            rest.append(word)
            continue
        values, key, text = _SECTIONS[found[1]], found[2], found[3]
        if text is None:
            text = words.pop(0) if words and not words[0].startswith("-") else "True"
        value = literal(text)
        if values.get(key, value) != value:
            raise ConfigError(
                f"--{found[1]}.{key}={text}: was {values[key]!r} before; give one"
            )
        values[key] = value
    return rest


def literal(text: str) -> Any:
    """The Python value that a text writes; the text itself where it is none.

    The rule of `--config.KEY=VALUE` for keywords that a recipe does not name.
    """
    if text in ("true", "false"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


@contextlib.contextmanager
def keywords(section: str, /, **flags):
    """Context with the keywords of a section, and those that have a flag of their own.

    In it, messages that begin with a keyword name its option.

    Args:
        section: Name of the section.
        **flags: Keyword -> the flag, an `absl.flags.FlagHolder`.

    Raises:
        ConfigError: If one is given by both, with different values.
    """
    own = _SECTIONS.get(section, {})
    given = {key: f.value for key, f in flags.items() if f.value is not None}
    for key in given.keys() & own.keys():
        if given[key] != own[key]:
            raise ConfigError(
                f"--{section}.{key}={own[key]!r}: was also given as"
                f" --{flags[key].name}={given[key]!r}; give one"
            )
    by_flag = {section, *(flags[key].name for key in given)} - own.keys()
    with named(*by_flag, section=section):
        yield given | own


@contextlib.contextmanager
def named(*flags: str, section: str = ""):
    """Context in which messages that begin with the name of an option write its dashes.

    Args:
        *flags: Names of flags.
        section: Section whose keywords all other names are; "" for none.
    """
    try:
        yield
    except UserError as error:
        found = re.match(r"(\w+)(?=[=:])", str(error))
        if not found or not (section or found[1] in flags):
            raise
        place = "--" if found[1] in flags else f"--{section}."
        raise type(error)(f"{place}{error}") from error
