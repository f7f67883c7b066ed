"""What a network knows of its classes: the rows of its class embedding."""

import numpy as np
from jaxtyping import Float

from kdiff_jax import networks
from kdiff_jax.errors import CheckpointError
from kdiff_jax.types import Params


def layers() -> list[str]:
    """Names of the layers that read one-hot labels, of all networks."""
    return networks.facts("CLASS_LAYER")


def class_rows(params: Params, num_classes: int) -> Float[np.ndarray, "N D"]:
    """f32[num_classes, D]: near rows are classes that the network treats alike.

    Args:
        params: Parameters of a U-Net of any family of `kdiff_jax.networks`.
        num_classes: Number of classes; rows beyond, such as one for "no label", are
            left out.

    Raises:
        CheckpointError: If the network has fewer classes, or none.
    """
    found = [params[name]["kernel"] for name in layers() if name in params]
    rows = len(found[0]) if found else 0
    if not 0 < num_classes <= rows:
        raise CheckpointError(
            f"num_classes={num_classes}: the network has an embedding of {rows}"
            " classes; take a U-Net with labels, a file, or rule='consecutive'"
        )
    return np.asarray(found[0], np.float32)[:num_classes]
