"""What a checkpoint's network is, without its weights."""

from collections.abc import Mapping
from typing import Any

from kdiff_jax import sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import foreign, model, training


def spec_of(path) -> Mapping[str, Any]:
    """The spec of the model that `load` would give.

    Raises:
        CheckpointError: If nothing loadable is there, as far as that shows by now.
    """
    path = model.located(path)
    if not model.is_own(path):
        return foreign.read(path)[0].spec
    for folder in (path, path / "model"):
        if model.is_ours(folder):
            return sealed.read_json(
                folder / model.SPEC, error=CheckpointError, way_out=model.AGAIN
            )
    if (found := training.find(path)) is None:
        raise CheckpointError(f"checkpoint={str(path)!r} holds no model")
    return training.description(found[0])["spec"]
