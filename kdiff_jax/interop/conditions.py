"""The table of vectors that a model is conditioned on, as a file beside its spec.

The spec has its digest. It is an array and nothing else: reading it runs no code.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdiff_jax import domain, sealed
from kdiff_jax.errors import CheckpointError

FILE, KEY = "conditions.npy", "conditions"


def digest(frozen: domain.Frozen) -> str | None:
    """Digest of the table among frozen arrays; None without."""
    if domain.TABLE not in frozen:
        return None
    return sealed.digest_of({KEY: np.asarray(frozen[domain.TABLE], np.float32)})


def write(
    folder: pathlib.Path, spec: Mapping[str, Any], frozen: domain.Frozen
) -> dict[str, Any]:
    """Writes the table, if there is one; returns the spec with its digest."""
    found = {name: value for name, value in spec.items() if name != KEY}
    if (known := digest(frozen)) is None:
        return found
    if spec.get(KEY) != known or not (folder / FILE).is_file():
        table = np.asarray(frozen[domain.TABLE], np.float32)
        sealed.write_array(folder / FILE, table)
    return {**found, KEY: known}


def read(folder: pathlib.Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The frozen arrays of a model, by role: its table, or none.

    Raises:
        CheckpointError: If the table is missing, or another than the spec's.
    """
    num, dim = spec["num_classes"], spec.get("cond_dim", 0)
    if not dim:
        return {}
    way_out = "copy the folder again"
    path = folder / FILE
    table = sealed.read_array(path, None, error=CheckpointError, way_out=way_out)
    why = domain.why_no_table(table, num, dim)
    if not why and spec.get(KEY) != digest({domain.TABLE: table}):
        why = "it is another than was written"
    if why:
        raise CheckpointError(f"{path}: is damaged ({why}); {way_out}")
    return {domain.TABLE: jnp.asarray(table, jnp.float32)}
