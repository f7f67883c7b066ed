"""Checkpoints of other projects, recognised by what is in them.

A family is a module with `matches(content)`, `convert(content, facts)` and `FOLDERS`;
`content` is a folder, or what `containers.open` found in a file.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from kdiff_jax import registry, sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers
from kdiff_jax.interop import diffusers_names
from kdiff_jax.interop.built import read as read_spec
from kdiff_jax.interop.source import Facts, Source
from kdiff_jax.interop.spec import Origin, Spec

PACKAGE = "kdiff_jax.interop"
OWN = "kdiff_jax"  # metadata of a state dict that we wrote: the spec
KEPT = ("revision",)
DIFFUSERS = "diffusers"  # a family, and how its layouts begin
DEFINING = (
    *("network", "precondition", "process", "sampler", "image_shape", "num_classes"),
    *("cond_dim", "cond_length", "space", "null_prob"),
)


def read(
    path: pathlib.Path, facts: Facts | None = None, family: str | None = None
) -> tuple[Source, Origin]:
    """(the checkpoint in our terms, where it came from).

    Args:
        path: A file, or a folder.
        facts: What the file does not say.
        family: One of `families()`, when the caller knows; else it is found out.

    Raises:
        CheckpointError: If nothing here reads it, or it is damaged or hostile. One
            line; no code of the file is run.
        ConfigError: If there is no such family.
    """
    if family is not None:
        _module(family)
    if path.is_dir():
        content, kind, metadata = path, "folder", {}
    else:
        opened = containers.open(path)
        content, kind, metadata = opened.content, opened.kind, opened.metadata
    if facts and facts.variant is not None and not path.is_dir():
        raise CheckpointError(
            f"variant={facts.variant!r}: is for a folder of diffusers, and {path} is a"
            " file; leave it out"
        )
    exported = _exported(metadata[OWN], path) if OWN in metadata else {}
    if exported and metadata.get("layout", "").startswith(f"{DIFFUSERS} "):
        return _of_diffusers(content, exported, path, family)
    among = _readers(of_folders=path.is_dir())
    found = next((name for name in among if _module(name).matches(content)), None)
    if found is None:
        raise CheckpointError(
            f"{path}: a {kind} that holds no network known here{_seen(content)}; known"
            f" are {', '.join(families())} (docs/teachers.md)"
        )
    if family not in (None, found):
        raise CheckpointError(
            f"source={family!r}: {path} is of the family {found!r}; leave it out"
        )
    takes_config = getattr(_module(found), "TAKES_CONFIG", False)
    facts = facts or Facts()
    if facts.config is not None and not takes_config:
        raise CheckpointError(
            f"config={str(facts.config)!r}: is for a single file of Stable Diffusion,"
            f" and {path} is of the family {found!r}; leave it out"
        )
    number = exported.get("network", {}).get("num_heads")
    if facts.num_heads is None and isinstance(number, int):
        facts = dataclasses.replace(facts, num_heads=number)
    try:
        source = _module(found).convert(content, facts)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check_heads(source, facts, path)
    if exported:
        source = _as_exported(source, exported)
    files = source.weights or (path,)
    name = str(files[0].relative_to(path.parent))
    return source, Origin(family=found, file=name, sha256=_sha256(files))


def spec_of(source: Source, origin: Origin, where) -> Spec:
    """The spec of what `read` found.

    Raises:
        CheckpointError: If it is that of no model.
        ConfigError: If there is no such sampler, which a user may have asked for.
    """
    values = {k: v for k, v in source.spec.items() if k != "sampler"}
    spec = read_spec(values, where).replace(source=origin)
    return spec.changed({"sampler": source.spec["sampler"]})


def _check_heads(source: Source, facts: Facts, path: pathlib.Path) -> None:
    """Refuses a number of heads of a network that says it itself, or has none."""
    number = source.spec["network"].get("num_heads")
    if facts.num_heads not in (None, number):
        raise CheckpointError(
            f"{path}: num_heads={facts.num_heads}: is a fact of a DiT or SiT alone;"
            " leave it out"
        )


def _sha256(files: Sequence[pathlib.Path]) -> str:
    """The digest of a file, or of the digests of several."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _exported(text: str, path: pathlib.Path) -> dict[str, Any]:
    """What the metadata of a state dict that we wrote say: the plain spec.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        found = sealed.parse(text, path)
    except sealed.Damaged as error:
        raise CheckpointError(
            f"{path}: its metadata {OWN!r} is no spec: {error}; it is damaged"
        ) from error
    if not isinstance(found.get("network"), Mapping):
        raise CheckpointError(
            f"{path}: its metadata {OWN!r} is no spec: it has no network; it is damaged"
        )
    return found


def _of_diffusers(content, exported: Mapping[str, Any], path, family: str | None):
    """A network that we wrote under diffusers' names, whose options are no names."""
    if family not in (None, DIFFUSERS):
        raise CheckpointError(
            f"source={family!r}: {path} is of the family {DIFFUSERS!r}; leave it out"
        )
    spec = {k: v for k, v in exported.items() if k in (*DEFINING, *KEPT)}
    source = Source({"sampler": None, **spec}, diffusers_names.read_weights(content))
    return source, Origin(DIFFUSERS, path.name, _sha256((path,)))


def _as_exported(source: Source, found: Mapping[str, Any]) -> Source:
    """A state dict that we wrote: its metadata says what the names do not."""
    spec = {k: v for k, v in found.items() if k in (*source.spec, *KEPT)}
    return dataclasses.replace(source, spec={**source.spec, **spec}, assumed=())


def _seen(content) -> str:
    """Hint for the message: what was found instead; "" if it has no names."""
    if not isinstance(content, Mapping):
        return ""
    names = [str(name) for name in list(content)[:5]]
    if any("down_blocks" in name for name in content if isinstance(name, str)):
        return " (weights of diffusers: give the folder, with its config.json)"
    return f" (its first names: {', '.join(names)[:200]})"


def is_foreign(folder: pathlib.Path) -> bool:
    """Whether a folder is one of another project."""
    return any(_module(name).matches(folder) for name in _readers(of_folders=True))


def families() -> list[str]:
    """The families that are read: the modules beside this one that say `FOLDERS`.

    It is whether they read folders, or files; each `matches` those that
    are its own, and no other family does.
    """
    return registry.names(PACKAGE, "FOLDERS")


def _readers(of_folders: bool) -> list[str]:
    return [name for name in families() if _module(name).FOLDERS == of_folders]


def _module(family: str) -> ModuleType:
    return registry.module(PACKAGE, family, what="source", defines="FOLDERS")
