"""What `--help` of a command prints."""

import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from absl import flags

COLUMN, WIDTH = 26, 88  # where texts begin and end


def text(module: str, shared: str) -> str:
    """The docstring of a command, its own options, and those of all commands.

    Args:
        module: Name of the command's module.
        shared: Name of the module that defines what all commands have.
    """
    usage = (sys.modules[module].__doc__ or "").strip()
    by_module = flags.FLAGS.flags_by_module_dict()
    own = by_module.get(sys.argv[0] if module == "__main__" else module, [])
    return "\n".join(
        [
            usage,
            "\nOptions:",
            *_lines(own),
            "\nOptions of all commands:",
            *_lines(by_module.get(shared, [])),
        ]
    )


def _lines(defined: Iterable[Any]) -> Iterable[str]:
    for flag in defined:
        head = f"  --{flag.name}{_value(flag)}"
        # absl puts the values of an enum before what is said of it.
        told = re.sub(r"^<.*?>: ", "", " ".join((flag.help or "").split()))
        told += _default(flag)
        indent = " " * COLUMN
        first = head.ljust(COLUMN) if len(head) < COLUMN else f"{head}\n{indent}"
        wrapped = textwrap.wrap(
            told, WIDTH - COLUMN, break_on_hyphens=False, break_long_words=False
        )
        yield first + f"\n{indent}".join(wrapped)


def _value(flag) -> str:
    """What follows the name of an option."""
    if flag.boolean:
        return ""
    values = getattr(flag.parser, "enum_values", None)
    kind = flag.flag_type()
    number = "N" if kind == "int" else "X" if kind == "float" else "VALUE"
    return f"={'|'.join(values) if values else number}"


def _default(flag) -> str:
    """The default, where there is one."""
    value = flag.default
    if value is None or value == "" or flag.boolean:
        return ""
    return f" [{value}]"
