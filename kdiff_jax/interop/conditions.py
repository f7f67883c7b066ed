"""The table of vectors that a model is conditioned on, as a file beside its spec.

The spec has its digest. It is an array and nothing else: reading it runs no code.
"""

import pathlib
from typing import Any

import jax.numpy as jnp

from kdiff_jax import domain, sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop.spec import Spec

FILE, KEY = "conditions.npy", "conditions"


def digest(frozen: domain.Frozen) -> str | None:
    """Digest of the table among frozen arrays; None without."""
    if domain.TABLE not in frozen:
        return None
    return sealed.digest_of({KEY: domain.kept(frozen[domain.TABLE])})


def write(folder: pathlib.Path, spec: Spec, frozen: domain.Frozen) -> Spec:
    """Writes the table, if there is one; returns the spec with its digest."""
    known = digest(frozen)
    if known and (spec.conditions != known or not (folder / FILE).is_file()):
        table = domain.kept(frozen[domain.TABLE])
        sealed.write_array(folder / FILE, table)
    return spec.replace(conditions=known)


def read(folder: pathlib.Path, spec: Spec) -> dict[str, Any]:
    """The frozen arrays of a model, by role: its table, or none.

    Raises:
        CheckpointError: If the table is missing, or another than the spec's.
    """
    num, dim, length = spec.num_classes, spec.cond_dim, spec.cond_length
    if not dim or (length and not spec.conditions):
        return {}
    way_out = "copy the folder again"
    path = folder / FILE
    table = sealed.read_array(path, None, error=CheckpointError, way_out=way_out)
    why = domain.why_no_table(table, num, dim, length)
    if not why and spec.conditions != digest({domain.TABLE: table}):
        why = "it is another than was written"
    if why:
        raise CheckpointError(f"{path}: is damaged ({why}); {way_out}")
    return {domain.TABLE: jnp.asarray(domain.kept(table))}
