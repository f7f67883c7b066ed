"""Pieces of configs: sections that several of them share. Values only, no defaults."""

from ml_collections import ConfigDict


def check_size(size: str, sizes=("full", "tiny")) -> None:
    if size not in sizes:
        raise ValueError(f"config argument {size!r}; choose one of {', '.join(sizes)}")


def config(name: str, **sections) -> ConfigDict:
    """A locked config; misspelt overrides are then refused."""
    found = ConfigDict({"name": name, "seed": 0, **sections}, convert_dict=True)
    found.lock()
    return found
