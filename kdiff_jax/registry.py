"""Things by their names, in one way: a module of a package, or an entry of a table.

What has a file of its own is there as soon as the file is: a method, a sampler, a
network, a source of data, a family of foreign checkpoints. Its file defines what it is
called by (`make`, `load`, `convert`), and the facts that others need of it; files of
the same package that do not are no such thing.
"""

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from kdiff_jax.errors import ConfigError


def names(package: str, defines: str = "make") -> list[str]:
    """The modules of a package that define such a name, in alphabetical order."""
    path = importlib.import_module(package).__path__
    found = [module.name for module in pkgutil.iter_modules(path)]
    return sorted(name for name in found if _defines(package, name, defines))


def module(package: str, name: str, *, what: str, defines: str = "make") -> ModuleType:
    """The module of this name, of those that `names` lists; others are not imported.

    Args:
        package: Full name of the package.
        name: Name of the module in it.
        what: Argument that has the name as its value, for the message.
        defines: What the module must define.

    Raises:
        ConfigError: If there is no such module.
    """
    if not _defines(package, name, defines):
        raise unknown(what, name, names(package, defines))
    return importlib.import_module(f"{package}.{name}")


def entry(table: Mapping[str, Any], name: str, *, what: str) -> Any:
    """The entry of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in table:
        raise unknown(what, name, table)
    return table[name]


def unknown(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that nothing has, with the names that there are."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(
        f"{what}={name!r}: unknown; choose one of {', '.join(known)}{meant}"
    )


def _defines(package: str, name: str, attribute: str) -> bool:
    full = f"{package}.{name}"
    if not (isinstance(name, str) and name.isidentifier()):
        return False  # "a.b" would be another package's
    if importlib.util.find_spec(full) is None:
        return False
    return hasattr(importlib.import_module(full), attribute)
