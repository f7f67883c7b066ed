"""What a model reads beside its parameters, as files beside its spec.

The spec has the digests. They are arrays and nothing else: reading them runs no code.
"""

import hashlib
import os
import pathlib
from typing import Any

import jax
import numpy as np

from kdiff_jax import domain
from kdiff_jax.encoders import latents
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import built, conditions, trees
from kdiff_jax.interop.spec import Spec

AUTOENCODER = "autoencoder.safetensors"


def write(folder: pathlib.Path, spec: Spec, frozen: domain.Frozen) -> Spec:
    """Writes the table and the autoencoder there are; returns the spec with digests."""
    spec = conditions.write(folder, spec, frozen)
    if latents.ROLE not in frozen:
        return spec.replace(autoencoder_sha256=None)
    path, leaves = folder / AUTOENCODER, trees.flatten(frozen[latents.ROLE])
    if spec.autoencoder_sha256 is None or not path.is_file():
        arrays = {k: lazy.of(np.asarray(v)) for k, v in leaves.items()}
        spec = spec.replace(autoencoder_sha256=tensors.write(path, arrays))
    return spec


def read(folder: pathlib.Path, spec: Spec) -> dict[str, Any]:
    """The frozen arrays of a model, by role.

    Raises:
        CheckpointError: If a file is missing, or another than the spec's.
    """
    frozen = conditions.read(folder, spec)
    if spec.autoencoder is None or spec.autoencoder_sha256 is None:
        return frozen
    path = folder / AUTOENCODER
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: is missing; copy the folder again")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != spec.autoencoder_sha256:
        raise CheckpointError(
            f"{path}: is damaged (sha256 {found[:12]}..., expected"
            f" {spec.autoencoder_sha256[:12]}...); copy the folder again"
        )
    leaves, _ = tensors.read(path)
    shapes = trees.flatten(latents.shapes(spec.autoencoder))
    built.compare(leaves, {k: v.shape for k, v in shapes.items()}, path)
    params = trees.unflatten({k: leaf.read() for k, leaf in leaves.items()})
    return {**frozen, latents.ROLE: jax.device_put(params, may_alias=False)}
