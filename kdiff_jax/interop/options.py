"""The options of a foreign config: each is read, or has a value that is implemented."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option of another project.

    Attributes:
        default: What the other project takes where a config does not say it.
        implemented: The values that are; None where all are, or none has an effect.
    """

    default: Any
    implemented: tuple | None = None


class Unlike(Exception):
    """Something that is not implemented: (option, value, what there is)."""


def only(value) -> Option:
    """An option of which one value is implemented, the default."""
    return Option(value, (value,))


def checked(config: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """The value of every known option.

    Raises:
        Unlike: At an option that is unknown, or has a value that is not implemented.
    """
    for name, value in config.items():
        if name.startswith("_"):  # the other project's notes: class, version, path
            continue
        if name not in known:
            raise Unlike(name, value, f"no such option, but {', '.join(known)}")
        implemented = known[name].implemented
        if implemented is not None and value not in implemented:
            raise Unlike(name, value, " or ".join(repr(v) for v in implemented))
    return {name: config.get(name, option.default) for name, option in known.items()}
