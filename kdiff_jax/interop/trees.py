"""Nested dicts of arrays as flat ones, {"a/b": leaf}, which is how files hold them."""

from collections.abc import Mapping
from typing import Any

import jax


def flatten(params) -> dict[str, Any]:
    """{"a/b": leaf} of a nested dict."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of {"a/b": leaf}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree
