"""Keywords against signatures; what values are refused is in test_values.py."""

from kdiff_jax import arguments
from kdiff_jax.arguments import Count, Positive


def test_whole_numbers_become_floats_where_those_are_declared():
    def function(a: Positive, b: Positive | None, c: Count, d: float | int, e=1):
        """A signature."""

    given = dict(a=3, b=2, c=4, d=5, e=6, f=7)
    found = arguments.as_declared(function, given)
    kinds = {name: type(value) for name, value in found.items()}
    assert found == given
    assert kinds == dict(a=float, b=float, c=int, d=int, e=int, f=int)
