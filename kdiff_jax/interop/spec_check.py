"""Whether the values of a spec are of the kinds that a model has.

A spec is read from a file. What is in it goes into networks, processes and samplers as
keywords, so each value must be what the signature allows: nothing of a wrong kind gets
as far as an error of its own, or a number that nobody meant.
"""

import numbers
from collections.abc import Callable, Mapping
from typing import Any

from kdiff_jax import arguments, domain, networks, samplers
from kdiff_jax.diffusion import precondition, process
from kdiff_jax.errors import ConfigError

LARGEST = 2**24  # of any count: a grid of as many steps still fits into memory
LARGEST_SIDE = 2**14
BOUND = ("parent", "name", "process")  # what is given otherwise, or not at all


def check(spec: Mapping[str, Any]) -> None:
    """Raises ConfigError at the first value that no model has."""
    if not isinstance(spec, Mapping):
        raise ConfigError(f"spec={_shown(spec)}: must be an object with names")
    for section in ("network", "precondition", "process"):
        _check_section(section, spec.get(section))
    if "sampler" in spec:  # a network alone has none
        _check_section("sampler", spec["sampler"])
    _check_shape(spec.get("image_shape"))
    _check_count("num_classes", spec.get("num_classes"))
    _check_count("cond_dim", spec.get("cond_dim", 0))
    if spec.get("cond_dim", 0) and not spec["num_classes"]:
        raise ConfigError(
            f"cond_dim={spec['cond_dim']}: num_classes is the number of vectors, and 0"
        )
    _check_count("augment_dim", spec.get("augment_dim", 0))
    domain.make_space(spec.get("space", "pixels"), spec["image_shape"])


def _check_section(section: str, values) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{section}={_shown(values)}: must be an object with a name")
    name = values.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{section}.name={_shown(name)}: must be a text")
    given = {key: value for key, value in values.items() if key != "name"}
    function, what = _annotated(section, name), f"{section} {name!r}"
    prefix = f"{section}."
    arguments.check(function, given, what=what, prefix=prefix, hidden=BOUND)
    for key, value in given.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ConfigError(f"{prefix}{key}={_shown(value)}: must be up to {LARGEST}")


def _annotated(section: str, name: str) -> Callable[..., Any]:
    """Function that takes the values of a section as keywords."""
    if section == "network":
        return networks.make_function(name)
    if section == "sampler":
        return samplers.make_function(name)
    if section == "process":
        return process.make_function(name)
    return precondition.make_function(name)


def _is_number(value, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_shape(shape) -> None:
    """[H, W, C] of one image."""
    sides = list(shape) if isinstance(shape, (list, tuple)) else []
    whole = len(sides) == 3 and all(_is_number(n, numbers.Integral) for n in sides)
    if not whole or not all(1 <= n <= LARGEST_SIDE for n in sides):
        raise ConfigError(
            f"image_shape={_shown(shape)}: must be height, width and channels, each of"
            f" 1 to {LARGEST_SIDE}"
        )


def _check_count(name: str, value) -> None:
    if not _is_number(value, numbers.Integral) or not 0 <= value <= LARGEST:
        raise ConfigError(f"{name}={_shown(value)}: must be a count up to {LARGEST}")


def _shown(value) -> str:
    return repr(value)[:60]
