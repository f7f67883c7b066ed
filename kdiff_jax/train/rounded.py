"""Which arguments of a function count by what bfloat16 keeps of them alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def leaves(function: Callable[..., Any], first, *rest):
    """Tree of bool: whether all that a function does with a leaf is to round it.

    A network in bfloat16 rounds its kernels and reads its norms as they are: rounding a
    kernel before the call changes nothing, not a bit.

    Args:
        function: Function of `first` and `rest`.
        first: Tree of shapes, whose leaves are asked about.
        *rest: Shapes of the other arguments.
    """
    jaxpr = jax.make_jaxpr(function)(first, *rest).jaxpr
    structure = jax.tree.structure(first)
    return structure.unflatten(_rounded(jaxpr)[: structure.num_leaves])


def _rounded(jaxpr) -> list[bool]:
    """For each argument of a jaxpr, whether it is rounded wherever it is read."""
    read_whole = {id(v) for v in jaxpr.outvars}
    for eqn in jaxpr.eqns:
        is_rounding = (
            eqn.primitive.name == "convert_element_type"
            and eqn.params["new_dtype"] == jnp.bfloat16
        )
        if is_rounding:
            continue
        inner = _call(eqn)
        found = _rounded(inner) if inner else [False] * len(eqn.invars)
        read_whole |= {
            id(v) for v, good in zip(eqn.invars, found, strict=True) if not good
        }
    return [id(v) not in read_whole for v in jaxpr.invars]


def _call(eqn):
    """The jaxpr of an equation that hands its arguments on, in their order; or None."""
    for key in ("jaxpr", "call_jaxpr"):
        if (inner := eqn.params.get(key)) is not None:
            inner = getattr(inner, "jaxpr", inner)
            return inner if len(inner.invars) == len(eqn.invars) else None
    return None
