"""Names without what wrappers of PyTorch put into them, for every family alike."""

from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import raw
from kdiff_jax.formats.lazy import Lazy

# Of DataParallel (and its like), torch.compile, FSDP, checkpointed activations.
WRAPPERS = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)


def unwrapped(tree: Any) -> Any:
    """The tree of a checkpoint, with "module._orig_mod.conv.weight" as "conv.weight".

    Raises:
        CheckpointError: If an array is there both with and without a wrapper.
    """
    if type(tree) in (list, tuple):
        return type(tree)(unwrapped(part) for part in tree)
    if type(tree) is not dict:
        return tree
    found: dict[Any, Any] = {}
    for name, value in tree.items():
        short = _short(name) if type(value) is Lazy else name
        if short in found:
            raise CheckpointError(
                f"its array {raw.shown(short)} is there twice, with and without a"
                f" wrapper ({', '.join(WRAPPERS[:2])}); save one of them"
            )
        found[short] = unwrapped(value)
    return found


def _short(name: Any) -> Any:
    if type(name) is not str:
        return name
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts) or name
