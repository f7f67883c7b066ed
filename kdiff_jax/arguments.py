"""Keyword arguments, checked against the signature that they are for.

A function declares the range of a number where it declares its type:

    def make(*, lr: Positive, b1: Below1 = 0.9, clip_norm: Positive | None = None): ...

and `check` refuses, in one line, a keyword that the function does not have, one that is
missing, a value of another type, and a number out of range, NaN included.
"""

import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np

from kdiff_jax.errors import ConfigError

MAX_SEED = 2**32 - 1  # each from 0 is another stream of numbers; JAX would wrap others


class Range(NamedTuple):
    """Numbers between two ends, which belong to it unless they are open.

    Attributes:
        low: The lower end.
        high: The upper end; infinity itself is a number of a closed range alone.
        low_open: Whether `low` is left out.
        high_open: Whether `high` is left out.
    """

    low: int | float = -math.inf
    high: int | float = math.inf
    low_open: bool = False
    high_open: bool = True

    def __contains__(self, number) -> bool:
        above = number > self.low if self.low_open else number >= self.low
        below = number < self.high if self.high_open else number <= self.high
        return bool(above and below)  # NaN is neither

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "must be a finite number"
        if self.high == math.inf:
            bound = f"above {self.low:g}" if self.low_open else f"{self.low:g} or more"
            return f"must be {bound}"
        ends = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"must lie in {ends[0]}{_short(self.low)}, {_short(self.high)}{ends[1]}"


FINITE = Range()
PLAIN = (bool, int, float, str, list, tuple, Mapping, type(None))
Count = Annotated[int, Range(1)]  # how many, at least one
Whole = Annotated[int, Range(0)]  # how many, or none
Positive = Annotated[float, Range(0, low_open=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, high_open=False)]
Below1 = Annotated[float, Range(0, 1)]  # a decay, or a rate of dropout
Seed = Annotated[int, Range(0, 2**32 - 1, high_open=False)]


def check(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    what: str,
    prefix: str = "",
    hidden: Iterable[str] = (),
    partial: bool = False,
) -> None:
    """Refuses keywords that the signature of `function` does not allow.

    Arrays, networks and whatever else has no plain type are taken as they are.

    Args:
        function: What will be called with them; or a class.
        given: Keyword -> value.
        what: The function in words, for messages: "method 'dmd2'".
        prefix: Goes before a keyword's name in messages: "--config.stages.student.".
        hidden: Parameters that the caller gives itself, neither asked for nor named.
        partial: Whether required keywords may be missing.

    Raises:
        ConfigError: Names the keyword, its value and the rule.
    """
    signature = inspect.signature(function).parameters
    known = {k: p for k, p in signature.items() if k not in hidden}
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return  # it checks them itself
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"{prefix}{key}={_shown(value)}: {what} has no keyword {key!r}; it has:"
                f" {', '.join(known)}"
            )
        if wrong := _wrong(value, known[key].annotation):
            default = known[key].default
            plain = isinstance(default, (int, float, str, tuple))
            way_out = f"; the default is {default!r}" if plain else ""
            raise ConfigError(f"{prefix}{key}={_shown(value)}: {wrong}{way_out}")
    for key, parameter in ({} if partial else known).items():
        if parameter.default is parameter.empty and key not in given:
            raise ConfigError(f"{prefix}{key}: is missing, and {what} needs it")


def check_named(
    module: Any,
    section: Any,
    *,
    prefix: str = "",
    hidden: Iterable[str] = (),
    partial: bool = False,
) -> None:
    """Refuses a section whose `name` and keywords are those of no function.

    Args:
        module: What knows the functions, by `names` and `make_function`.
        section: {"name": ..., keyword: value}.
        prefix: See `check`.
        hidden: See `check`.
        partial: See `check`.

    Raises:
        ConfigError: Names the keyword, its value and the rule.
    """
    if not isinstance(section, Mapping):
        place = prefix.rstrip(".")
        raise ConfigError(f"{place}={_shown(section)}: must be a section with a name")
    keywords = dict(section)
    name = keywords.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(module.names())
        raise ConfigError(f"{prefix}name={_shown(name)}: say which; one of {known}")
    try:
        function = module.make_function(name)
    except ConfigError as error:
        raise ConfigError(f"{prefix}name: {error}") from error
    options: dict[str, Any] = dict(prefix=prefix, hidden=hidden, partial=partial)
    check(function, keywords, what=repr(name), **options)


def as_declared(
    function: Callable[..., Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Keywords with whole numbers as floats, where the signature declares a float."""
    declared = inspect.signature(function).parameters

    def of(key, value):
        if type(value) is not int or key not in declared:
            return value
        try:
            kind = plain_type(declared[key].annotation)
        except TypeError:  # it takes several types
            return value
        return float(value) if kind is float else value

    return {key: of(key, value) for key, value in given.items()}


def plain_type(annotation) -> Any:
    """int of `Count`, float of `Positive | None`: what a value of the command line is.

    Raises:
        TypeError: If the annotation allows several types.
    """
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    if _is_union(annotation):
        kinds = [t for t in get_args(annotation) if t is not type(None)]
        if len(kinds) != 1:
            raise TypeError(f"{annotation} allows several types")
        return plain_type(kinds[0])
    return get_origin(annotation) or annotation  # tuple of tuple[int, ...]


def _wrong(value, annotation) -> str:
    """Why a value is not of the type or range that is declared; "" if it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if get_origin(annotation) is Annotated:
        kind, *rules = get_args(annotation)
        return _wrong_number(value, kind, rules) or _wrong(value, kind)
    if _is_union(annotation):
        kinds = get_args(annotation)
        if value is None and type(None) in kinds:
            return ""
        whys = [_wrong(value, kind) for kind in kinds if kind is not type(None)]
        return "" if "" in whys else ", or ".join(whys)
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        found = value in choices and type(value) in map(type, choices)
        return "" if found else f"choose one of {', '.join(map(str, choices))}"
    if get_origin(annotation) is tuple or annotation is tuple:
        return _wrong_tuple(value, get_args(annotation))
    if annotation in (int, float):
        return _wrong_number(value, annotation, [FINITE])
    if annotation in (bool, str):
        word = {bool: "must be True or False", str: "must be text"}[annotation]
        return "" if isinstance(value, annotation) else word
    if get_origin(annotation) is Mapping or annotation in (dict, Mapping):
        return "" if isinstance(value, Mapping) else "must be a section of keywords"
    return ""


def _wrong_number(value, kind, rules) -> str:
    if kind not in (int, float) or not isinstance(value, PLAIN):
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"must be {'a whole number' if kind is int else 'a number'}"
    if kind is int and not isinstance(value, int):
        return "must be a whole number"
    for rule in rules:
        if value not in rule:
            return str(rule) + ", and finite" * (value == math.inf)
    return ""


def _wrong_tuple(value, kinds) -> str:
    if not isinstance(value, (list, tuple)):
        return "must be a tuple, as '(1, 2)'"
    if not kinds:
        return ""
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    elif len(kinds) != len(value):
        return f"must have {len(kinds)} entries"
    whys = [_wrong(one, kind) for one, kind in zip(value, kinds, strict=True)]
    return next((f"each entry {why}" for why in whys if why), "")


def _is_union(annotation) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _short(number: int | float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def _shown(value) -> str:
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
