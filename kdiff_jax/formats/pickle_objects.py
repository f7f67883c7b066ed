"""What stands for objects of a pickle: inert data, and the few names that make some.

Functions here get arguments that cannot be trusted.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import raw

MAX_INT_KEYS = 10_000  # integers, unlike strings, can be made to collide in a dict


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """A name that is allowed: what a call of it does, or None if it is only a name."""

    module: str
    name: str
    call: Callable[..., Any] | None

    def __str__(self):
        return f"{self.module}.{self.name}"


class Inert:
    """What stands for an object of a class. Subclasses say what is in it.

    Attributes:
        place: Its number in the memo, where `build` may put something else.
    """

    place: int | None = None

    def build(self, state: Any) -> Any:
        """Takes the object's state; returns what stands for it from here on."""
        raise CheckpointError("a state is given to what has none")

    def children(self) -> Iterable[Any]:
        return ()


@dataclasses.dataclass(eq=False)
class Stub(Inert):
    """An object of a class that is not ours: only what was stored of it.

    Attributes:
        args: What it was made from.
        state: What its `__setstate__` or `__dict__` would have got, or None.
        items: The entries of a class that is a dict.
    """

    module: str
    name: str
    args: tuple = ()
    state: Any = None
    items: dict = dataclasses.field(default_factory=dict)

    def build(self, state):
        self.state = state
        return self

    def children(self):
        return (self.args, self.state, self.items)


def stubs(names: Mapping[str, str]) -> dict[tuple[str, str], Callable]:
    """Allows {module: "class class ..."} as stand-ins."""

    def maker(module, name):
        return lambda *args: Stub(module, name, args)

    return {(m, n): maker(m, n) for m, line in names.items() for n in line.split()}


def damaged(why: str) -> CheckpointError:
    """The error of a stream that no program has written like this."""
    return CheckpointError(f"its pickle is damaged: {why}; copy or download it again")


def fill(target: dict, items: list) -> dict:
    """Puts key, value, key, value, ... into a dict, if the keys are plain."""
    if len(items) % 2:
        raise damaged("a dict has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        _check_key(key, target)
        target[key] = value
    return target


def gather(target: set, items: Iterable[Any]) -> set:
    """Puts items into a set, if they are plain."""
    for key in items:
        _check_key(key, target)
        target.add(key)
    return target


def _check_key(key, target):
    # Other keys have hashes that walk, or that are easily made equal; a name of a class
    # is told by where it lies in memory.
    if type(key) not in (str, int, bool, type(None), Global):
        raise CheckpointError(f"its pickle has a {type(key).__name__} as a key")
    if type(key) is int and len(target) >= MAX_INT_KEYS:
        raise CheckpointError(f"its pickle has a dict of over {MAX_INT_KEYS} integers")


def _ordered_dict(pairs=()):
    items = [x for pair in pairs for x in _two(pair)]
    return fill({}, items)


def _two(pair):
    if type(pair) not in (list, tuple) or len(pair) != 2:
        raise damaged("a dict has an entry that is no pair")
    return pair


def _encode(text, encoding="latin1") -> bytes:
    # How bytes are written in protocols without bytes.
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise damaged("bytes are written in an unknown way")
    return text.encode("latin1")


def _bytes(data=b"", encoding="latin1"):
    if isinstance(data, (bytes, bytearray, memoryview)):
        return data
    return _encode(data, encoding)


def _set(items=()):
    if type(items) not in (list, tuple):
        raise damaged("a set is made of what is no list")
    return gather(set(), items)


def _dill_type(name=None):
    """How dill writes a builtin type: the name that a plain pickle has for it."""
    if type(name) is not str or (key := ("builtins", name)) not in PLAIN:
        raise CheckpointError(f"its pickle asks dill for {raw.shown(name)}")
    return Global(*key, PLAIN[key])


def _reconstructor(cls, base, state):
    # How objects without a __reduce__ are written in protocols 0 and 1.
    if type(cls) is not Global or cls.call is None or type(base) is not Global:
        raise damaged("an object is made of what is no class")
    made = cls.call()
    if type(made) is Stub and base.name == "dict" and type(state) is dict:
        made.items = state
    elif type(made) is not Stub or state is not None:
        raise CheckpointError(f"its pickle makes a {cls} from a {base}")
    return made


NUMERIC = {
    code: np.dtype(code)
    for code in "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split()
}


@dataclasses.dataclass(eq=False)
class _Dtype(Inert):
    dtype: np.dtype

    def build(self, state):
        if type(state) is not tuple or len(state) < 8 or state[2:5] != (None,) * 3:
            raise CheckpointError("its pickle holds a numpy type with fields")
        if state[1] not in ("<", ">", "|", "="):
            raise damaged("a numpy type has no byte order")
        self.dtype = self.dtype.newbyteorder(state[1])
        return self


def _dtype(code, *_):
    if type(code) is not str or code not in NUMERIC:
        raise CheckpointError(f"its pickle holds a numpy type {raw.shown(code)}")
    return _Dtype(NUMERIC[code])


@dataclasses.dataclass(eq=False)
class _Array(Inert):
    """An array before its state is known."""

    def build(self, state):
        if type(state) is not tuple or len(state) != 5:
            raise damaged("an array has no state")
        _, shape, dtype, fortran, data = state
        return _array(data, dtype, shape, "F" if fortran is True else "C")

    def children(self):
        raise damaged("an array has no content")


def _array(data, dtype, shape, order: Any = "C"):
    if type(dtype) is not _Dtype or not isinstance(
        data, (bytes, bytearray, memoryview)
    ):
        raise damaged("an array is not numbers in bytes")
    if order not in ("C", "F"):
        raise damaged("an array has no order")
    return raw.dense(data, dtype.dtype, shape, order)


def _scalar(dtype, data):
    return _array(data, dtype, ()).read().item()


def _numpy():
    for package in ("numpy.core", "numpy._core"):  # before and since numpy 2
        yield (f"{package}.multiarray", "scalar"), _scalar
        yield (f"{package}.multiarray", "_reconstruct"), lambda *_: _Array()
        yield (f"{package}.numeric", "_frombuffer"), _array
    yield ("numpy", "dtype"), _dtype
    yield ("numpy", "ndarray"), None


def _builtins():
    for module in ("builtins", "__builtin__"):  # Python 3 and 2
        yield (module, "set"), _set
        yield (module, "frozenset"), lambda *args: frozenset(_set(*args))
        yield (module, "bytes"), _bytes
        yield (module, "bytearray"), _bytes
        yield (module, "object"), None
        yield (module, "dict"), None
    for module in ("copyreg", "copy_reg"):
        yield (module, "_reconstructor"), _reconstructor
    yield ("collections", "OrderedDict"), _ordered_dict
    yield ("_codecs", "encode"), _encode
    for module in ("dill._dill", "dill.dill"):
        yield (module, "_load_type"), _dill_type


PLAIN: Mapping[tuple[str, str], Callable | None] = {
    **dict(_builtins()),
    **dict(_numpy()),
}
