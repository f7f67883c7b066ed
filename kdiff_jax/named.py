"""A function by its name with the keywords of a call, as one hashable value."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from flax.core import FrozenDict

Keywords = Mapping[str, Any]  # a FrozenDict, see `frozen`
Made = TypeVar("Made")


class Named(NamedTuple):
    """A function by its name, and the keywords that it is called with."""

    name: str
    keywords: Keywords = FrozenDict()

    def call(self, make: Callable[..., Made], **more) -> Made:
        """`make(name, **keywords, **more)`."""
        return make(self.name, **self.keywords, **more)

    def changed(self, **keywords) -> "Named":
        """The same function with other values of these keywords."""
        return self._replace(keywords=frozen({**self.keywords, **keywords}))

    def plain(self) -> dict[str, Any]:
        """The section of a config or of a JSON file that `named` reads."""
        return dict(sorted({"name": self.name, **thawed(self.keywords)}.items()))

    def __str__(self) -> str:
        keywords = ", ".join(f"{k}={v}" for k, v in thawed(self.keywords).items())
        return f"{self.name}({keywords})"


def named(section: Mapping[str, Any]) -> Named:
    """A section with a `name`, and the keywords beside it."""
    keywords = dict(section)
    return Named(keywords.pop("name"), frozen(keywords))


def frozen(tree: Any) -> Any:
    """Plain values as hashable ones: mappings that do not change, and tuples."""
    if isinstance(tree, Mapping):
        return FrozenDict({key: frozen(value) for key, value in tree.items()})
    if isinstance(tree, (list, tuple)):
        return tuple(map(frozen, tree))
    return tree


def thawed(tree: Any) -> Any:
    """Plain values, as JSON has them, of frozen ones."""
    if isinstance(tree, Mapping):
        return {key: thawed(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return list(map(thawed, tree))
    return tree
