"""What a checkpoint's network is, without its weights."""

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import foreign, model, training
from kdiff_jax.interop.spec import Spec


def spec_of(path) -> Spec:
    """The spec of the model that `load` would give.

    Raises:
        CheckpointError: If nothing loadable is there, as far as that shows by now.
    """
    path = model.located(path)
    if not model.is_own(path):
        return foreign.spec_of(*foreign.read(path), path)
    for folder in (path, path / "model"):
        if model.is_ours(folder):
            return model.spec_of(folder)
    if (found := training.find(path)) is None:
        raise CheckpointError(f"checkpoint={str(path)!r} holds no model")
    return training.description(found[0]).spec
