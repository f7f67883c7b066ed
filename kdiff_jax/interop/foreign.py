"""Checkpoints of other projects, recognised by what is in them.

A family is a module with `matches(content)` and `convert(content, facts)`; `content` is
a folder, or what `containers.open` found in a file.
"""

import hashlib
import importlib
import pathlib
from typing import Any

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import containers
from kdiff_jax.interop.source import Facts, Source

FOLDERS = ("diffusers",)
FILES = ("edm", "google", "score_sde", "ddpm_torch")
FAMILIES = FOLDERS + FILES


def read(
    path: pathlib.Path, facts: Facts | None = None, family: str | None = None
) -> tuple[Source, dict[str, Any]]:
    """(the checkpoint in our terms, where it came from).

    Args:
        path: A file, or a folder.
        facts: What the file does not say.
        family: One of `FAMILIES`, when the caller knows; else it is found out.

    Raises:
        CheckpointError: If nothing here reads it, or it is damaged or hostile. One
            line; no code of the file is run.
        ConfigError: If there is no such family.
    """
    if family not in (None, *FAMILIES):
        raise ConfigError(f"source={family!r}: choose one of {', '.join(FAMILIES)}")
    if path.is_dir():
        content, kind, among = path, "folder", FOLDERS
    else:
        opened = containers.open(path)
        content, kind, among = opened.content, opened.kind, FILES
    found = next((name for name in among if _module(name).matches(content)), None)
    if found is None:
        raise CheckpointError(
            f"{path}: a {kind} that holds no network known here; known are"
            f" {', '.join(FAMILIES)} (docs/teachers.md)"
        )
    if family not in (None, found):
        raise CheckpointError(
            f"source={family!r}: {path} is of the family {found!r}; leave it out"
        )
    try:
        source = _module(found).convert(content, facts or Facts())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    weights = source.weights or path
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name = str(weights.relative_to(path.parent))
    return source, {"family": found, "file": name, "sha256": sha256}


def is_foreign(folder: pathlib.Path) -> bool:
    """Whether a folder is one of another project."""
    return any(_module(name).matches(folder) for name in FOLDERS)


def _module(family: str):
    return importlib.import_module(f"kdiff_jax.interop.{family}")
