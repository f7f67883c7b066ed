"""Modules of torch in a pickle's tree: their parameters, buffers and parts by name."""

from collections.abc import Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.formats.torch_files import Persistent


def arrays(content: Mapping[str, Any] | Stub | Persistent) -> dict[str, Lazy]:
    """The arrays of a state dict, of a module, or of a dict of modules, by name."""
    if isinstance(content, Stub | Persistent):
        return state_dict(content)
    found: dict[str, Lazy] = {}
    for name, value in content.items():
        if isinstance(value, Lazy):
            found[str(name)] = value
        elif isinstance(value, Stub | Persistent):
            found |= state_dict(value, f"{name}.")
    return found


def state_dict(module, prefix: str = "") -> dict[str, Lazy]:
    """{"model.enc.16x16_conv.weight": array} of a tree of modules, with buffers."""
    flat = {}
    for kind in ("_parameters", "_buffers"):
        for name, leaf in _leaves(module, kind).items():
            if isinstance(leaf, Lazy):
                flat[f"{prefix}{name}"] = leaf
    for name, child in children(module).items():
        flat |= state_dict(child, f"{prefix}{name}.")
    return flat


def children(module) -> dict[str, Any]:
    """The modules in a module, by name."""
    if _is_scripted(module):
        return {k: v for k, v in module.state.items() if isinstance(v, Stub)}
    return {k: v for k, v in attribute(module, "_modules").items() if v is not None}


def attribute(module, name: str) -> dict[str, Any]:
    """An attribute of a stored object that is a dict, or is not there."""
    if not isinstance(module, Persistent | Stub) or not isinstance(module.state, dict):
        raise CheckpointError("checkpoint's network is not made of modules")
    found = opened(module.state.get(name)) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"checkpoint's {name} is not a dict; it is damaged")
    return found


def opened(value: Any) -> Any:
    """An EasyDict as the dict that it is."""
    easy = isinstance(value, Stub) and value.name == "EasyDict"
    return value.items if easy else value


def _leaves(module, kind: str) -> dict[str, Any]:
    if not _is_scripted(module):
        return attribute(module, kind)
    # TorchScript knows attributes alone, be they parameters, buffers or modules.
    return module.state if kind == "_parameters" else {}


def _is_scripted(module) -> bool:
    scripted = isinstance(module, Stub) and module.module.split(".")[0] == "__torch__"
    return scripted and isinstance(module.state, dict)
