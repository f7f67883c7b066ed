"""What a model is asked for, as numbers or vectors, and which students own it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import domain
from kdiff_jax.diffusion.guidance import check_told
from kdiff_jax.domain import Cond, Conditions, Frozen
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop.spec import Spec
from kdiff_jax.partition import Partition


def of(
    y, batch: int, conditions: Conditions, partition: Partition, frozen: Frozen
) -> tuple[Cond, Any]:
    """(conditions as networks read them, i32[batch] groups of students that own them).

    Args:
        y: Numbers i32[batch], or vectors f32[batch, D] of a model of such, or of a
            model of texts a `domain.Prompt`, f32[batch, L, D] or a dictionary of what
            it reads; None is no condition.
        batch: Number of images.
        conditions: What the model may be asked for.
        partition: Who owns what.
        frozen: The model's table of vectors, by its role.

    Raises:
        ConfigError: If there is no such condition, or none of the students owns it.
    """
    text = _text(y, batch, conditions, frozen)
    if text is not None:
        read = domain.as_read(text)
        read = read["context"] if isinstance(read, Mapping) else read
        return text, group_of_vectors(read, partition, frozen)
    y = np.full(batch, domain.NULL) if y is None else y
    y = np.asarray(y) if isinstance(y, (list, tuple)) else y
    if conditions.dim and np.shape(y) == (batch, conditions.dim):
        vectors = jnp.asarray(y, jnp.float32)
        return vectors, group_of_vectors(vectors, partition, frozen)
    _check(y, batch, conditions, partition)
    y = jnp.asarray(y, jnp.int32)
    return conditions.take(frozen, y), partition.group_of(y)


def _text(y, batch: int, conditions: Conditions, frozen: Frozen) -> Cond | None:
    """Texts as networks read them; None for labels, vectors, or numbers of the model's.

    Raises:
        ConfigError: If they are none that the model reads.
    """
    if conditions.reader is None:
        return None
    if isinstance(y, Mapping | domain.Prompt):
        for part in jax.tree.leaves(y):
            if np.shape(part)[:1] != (batch,):
                raise ConfigError(
                    f"y: has a part {list(np.shape(part))}, of {batch} images; give one"
                    " row for each"
                )
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), y)
    has_table, row = domain.TABLE in frozen, (conditions.length, conditions.dim)
    if np.shape(y)[1:] != row and has_table:
        return None
    any_length = not has_table and np.ndim(y) == 3
    expected = np.shape(y)[1:2] + row[1:] if any_length else row
    if np.shape(y) != (batch, *expected):
        given = "None" if y is None else f"an array {list(np.shape(y))}"
        raise ConfigError(
            f"y={given}: this model reads texts, f32{[batch, *row]}; give what"
            " its text encoder makes of them (kdiff_jax.text)"
        )
    cond = jnp.asarray(y, jnp.float32)
    if not has_table:
        return cond
    none = conditions.take(frozen, jnp.full(batch, domain.NULL))
    return domain.Prompt(cond, none.null)


def guidance_keyword(guidance, batch: int, spec: Spec) -> dict[str, Any]:
    """Keyword of the strength for a network that reads it; {} for another.

    Args:
        guidance: A number or f32[batch]; None for that of the spec's sampler.
        batch: Number of images.
        spec: Spec of the model.

    Raises:
        ConfigError: If the model reads none, or was not made for this one.
    """
    levels = spec.guidance_range
    if not levels:
        if guidance is None:
            return {}
        raise ConfigError(
            f"guidance={guidance}: this model does not read it; leave it out, and ask a"
            " sampler for guidance"
        )
    if guidance is None:
        guidance = spec.guidance
    try:
        values = np.unique(np.asarray(guidance, np.float32)).tolist()
    except jax.errors.TracerArrayConversionError:
        values = []  # while tracing there are none
    for value in values:
        check_told(value, levels)
    return {"guidance": jnp.broadcast_to(jnp.float32(guidance), (batch,))}


def group_of_vectors(vectors, partition: Partition, frozen: Frozen) -> np.ndarray:
    """i32[N], the group of students that answers for each of f32[N, D].

    Of texts f32[N, L, D] by the mean of their vectors, see `domain.vectors`. Rows of
    the table have their owner. Others go where the partition's rule puts them: by the
    median splits of "pca", or to the nearest centre of "kmeans".

    Raises:
        ConfigError: If another vector than the table's is asked of students whose
            groups were made by neither.
    """
    if not partition.groups:
        return np.zeros(len(vectors), np.int32)
    try:
        vectors = np.asarray(vectors, np.float32)
    except jax.errors.TracerArrayConversionError:
        raise ConfigError(
            "y: vectors of a traced call have no owner yet among these students; give"
            " numbers, call it outside of jit, or take model.student(k)"
        ) from None
    if vectors.ndim == 3:
        vectors = vectors.mean(axis=1)
    table = _vectors(frozen[domain.TABLE])
    numbers = {row.tobytes(): k for k, row in enumerate(table)}
    known = np.array([numbers.get(v.tobytes(), -1) for v in vectors])
    found = np.zeros(len(vectors), np.int32)
    found[known >= 0] = partition.group_of(known[known >= 0])
    if (known < 0).any():
        found[known < 0] = partition.group_of_vectors(vectors[known < 0])
    return found


def _vectors(table) -> np.ndarray:
    """Rows of a table that vectors may be; none where it holds token ids."""
    table = domain.kept(table)
    if table.dtype != np.float32:
        return np.zeros((0, 1), np.float32)
    return table if table.ndim == 2 else table[:-1].mean(axis=1)


def _check(y, batch: int, conditions: Conditions, partition: Partition) -> None:
    if np.shape(y) != (batch,) or not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        dim = conditions.dim
        vectors = f", and vectors have {dim} entries" if dim else ""
        raise ConfigError(
            f"y={jnp.result_type(y)}{list(np.shape(y))}: labels are integers, one"
            f" per image{vectors}"
        )
    if not (conditions.num and batch):
        return
    try:
        highest, lowest = int(np.max(np.asarray(y))), int(np.min(np.asarray(y)))
    except jax.errors.TracerArrayConversionError:
        return  # while tracing there are no values
    if highest >= conditions.num:
        raise ConfigError(
            f"y={highest}: this model has {conditions.num} classes; -1 or None"
            " is no label"
        )
    if lowest < 0 and partition.groups:
        raise ConfigError(
            "y=None: the students of this model own classes, and no label has no"
            " owner; give one per image"
        )
