"""Projected discriminators on several feature networks, as one role of a method."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import domain
from kdiff_jax.discriminators import projected, spectral
from kdiff_jax.discriminators.extractors import Extractor
from kdiff_jax.domain import Conditions
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Net, Pretrained
from kdiff_jax.types import Params

EMBEDDING = "class_embedding"


def embedding(path: str, conditions: Conditions, dim: int) -> dict[str, Pretrained]:
    """The table of the classes that heads begin with, to be read from its file.

    Args:
        path: The file, see `projected.load_embedding`; "" for random rows.
        conditions: Conditions of the student, whose labels have the rows.
        dim: Length of a row.

    Returns:
        The table by its role; {} without a file.

    Raises:
        ConfigError: If there are no labels that rows could be of.
    """
    if not path:
        return {}
    if not conditions.num or conditions.dim:
        what = "is conditioned on vectors" if conditions.dim else "has no classes"
        raise ConfigError(
            f"class_embedding={path!r}: the student {what}; leave it empty"
        )
    shapes = jax.ShapeDtypeStruct((conditions.num, dim), jnp.float32)
    read = functools.partial(projected.load_embedding, path, conditions.num, dim)
    return {EMBEDDING: Pretrained(shapes, read)}


def begin(params: Params, given: Mapping[str, Params]) -> Params:
    """The heads with the table that is given, by its role."""
    return projected.with_table(params, given[EMBEDDING])


def make(
    extractors: dict[str, Extractor], conditions: Conditions, *, group: int, **fields
):
    """(Net, state): one discriminator for each feature network, as one role.

    Net.apply is (params, state, maps, y) -> (logits by feature network, new state).

    Args:
        extractors: The feature networks.
        conditions: Conditions that they are told.
        group: And `fields`: of `projected.Discriminator`.
    """
    modules = {
        name: projected.Discriminator(group=group, pyramid=extractor.pyramid, **fields)
        for name, extractor in extractors.items()
    }

    shapes = {name: extractor.shapes(group) for name, extractor in extractors.items()}

    def variables(name, key):
        maps = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes[name])
        y = domain.as_vector(conditions.example(group))
        return modules[name].init(key, maps, y)

    def init(key):
        keys = jax.random.split(key, len(extractors))
        pairs = zip(extractors, keys, strict=True)
        return {name: variables(name, k)["params"] for name, k in pairs}

    def apply(params, state, maps, y) -> Any:
        logits, new, y = {}, {}, domain.as_vector(y)
        for name, module in modules.items():
            logits[name], changed = module.apply(
                {"params": params[name], spectral.STATE: state[name]},
                maps[name],
                y,
                mutable=[spectral.STATE],
            )
            new[name] = changed[spectral.STATE]
        return logits, new

    @jax.jit
    def start():
        key = jax.random.key(0)  # the state does not depend on it
        return {name: variables(name, key)[spectral.STATE] for name in extractors}

    return Net(init, apply), start()
