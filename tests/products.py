"""The products of a program: its convolutions and matrix products, by operand."""

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def of(function, *args):
    """[(primitive, shapes, whether it is computed in float32)] of all products.

    Nothing is computed; arrays may be given as shapes. A gradient of attention takes
    bfloat16 and float32 together, and says that it is computed in bfloat16.
    """
    return list(_found(jax.make_jaxpr(function)(*args).jaxpr))


def _found(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            operands = [x.aval for x in equation.invars]
            narrow = "BF16_BF16" in str(equation.params["precision"])
            wide = any(str(x.dtype) == "float32" for x in operands) and not narrow
            yield equation.primitive.name, tuple(x.shape for x in operands), wide
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    yield from _found(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value):
    return isinstance(value, ClosedJaxpr | Jaxpr)
