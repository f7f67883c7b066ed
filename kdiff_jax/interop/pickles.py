"""Reads pickles as data: a small machine that calls nothing but what it is handed.

`pickletools` cuts a stream into opcodes, and this module knows what each one does to
the stack. Names become entries of a list that the caller gives, classes become inert
stand-ins, and whatever else a pickle asks for is refused by name. What comes out is a
tree: no cycles, of bounded depth and bounded size to whoever walks it.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import raw

MAX_OPS = 1_000_000  # the largest public EDM networks need about a hundred thousand
MAX_DEPTH = 200
MAX_NODES = 4_000_000
MAX_INT = 2**127
MAX_INT_KEYS = 10_000  # integers, unlike strings, can be made to collide in a dict
VIEW = 4096  # bytes in a row that are not copied
SHORT = 8  # length up to which an argument may be used again and again

SIZED = (str, bytes, bytearray, memoryview, list, tuple, dict, set)
LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING"
    " SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES"
    " SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)


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


def load(
    data,
    *,
    globals: Mapping[tuple[str, str], Callable | None],
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Reads the pickle at the start of `data`; returns (value, where it ends).

    Args:
        data: Bytes, or another buffer of bytes.
        globals: What (module, name) may be asked for, and what a call of it does; None
            for what is never called. Such a function gets untrusted arguments.
        persistent: What a persistent id stands for; None refuses them.

    Raises:
        CheckpointError: If the stream is damaged or asks for anything else. One line.
    """
    machine = _Machine(data, globals, persistent)
    value = machine.run()
    _check(value)
    return value, machine.data.tell()


class Window:
    """A buffer as the file that `pickletools` and `zipfile` want. It does not copy the
    bytes of tensors, and reserves nothing for bytes that are only claimed."""

    def __init__(self, data):
        self.view = memoryview(data).cast("B")
        self.at = 0
        self.recent = (b"", b"")  # the last two reads

    def read(self, num: int = -1):
        stop = len(self.view) if num < 0 else min(self.at + num, len(self.view))
        part = self.view[self.at : stop]
        self.at = max(self.at, stop)
        code, length = self.recent
        self.recent = length, bytes(part[:9])
        # An opcode of bytes, then their number, then this.
        is_bytes = (code, len(length)) in ((b"B", 4), (b"\x8e", 8))
        return part if is_bytes and len(part) >= VIEW else bytes(part)

    def readline(self) -> bytes:
        num = 128
        while True:
            part = bytes(self.view[self.at : self.at + num])
            end = part.find(b"\n") + 1
            if end or len(part) < num:
                line = part[: end or None]
                self.at += len(line)
                return line
            num *= 4

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, len(self.view))[whence])
        return self.at


class _Machine:
    def __init__(self, data, globals, persistent):
        self.data = Window(data)
        self.globals = globals
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # one stack for each open mark
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        try:
            for num, (opcode, arg, _) in enumerate(pickletools.genops(self.data)):  # type: ignore[arg-type]
                if num >= MAX_OPS:
                    raise CheckpointError(
                        f"its pickle has over {MAX_OPS} steps, more than a checkpoint"
                    )
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, arg)
        except CheckpointError:
            raise
        except ValueError as error:  # pickletools': damaged streams
            why = raw.shown(" ".join(str(error).split()))
            raise _damaged(f"{why}, at byte {self.data.tell()}") from error
        if self.below or len(self.stack) != 1:
            raise _damaged("it ends with an unfinished object")
        return self.stack[0]

    def _step(self, name: str, arg: Any) -> None:
        push = self.stack.append
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                if arg not in self.memo:
                    raise _damaged(f"it recalls object {raw.shown(arg)}, which is not")
                push(self.memo[arg])
            case "MEMOIZE":
                self._remember(len(self.memo))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._remember(arg)
            case _ if name in LITERALS:
                if type(arg) is int and not -MAX_INT < arg < MAX_INT:
                    raise CheckpointError("its pickle holds an integer over 127 bits")
                push(arg)
            case "NONE":
                push(None)
            case "NEWTRUE":
                push(True)
            case "NEWFALSE":
                push(False)
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_SET":
                push(set())
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "POP" if self.stack:
                self.stack.pop()
            case "POP" | "POP_MARK":
                self._since_mark()
            case "DUP":
                self.stack += self._pop(1) * 2
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                self._replace(tuple)
            case "LIST":
                self._replace(list)
            case "DICT":
                self._replace(lambda items: _fill({}, items))
            case "FROZENSET":
                self._replace(lambda items: frozenset(_gather(set(), items)))
            case "APPEND":
                (item,) = self._pop(1)
                self._top(list).append(item)
            case "APPENDS":
                items = self._since_mark()
                self._top(list).extend(items)
            case "SETITEM":
                items = self._pop(2)
                _fill(self._dict(), items)
            case "SETITEMS":
                items = self._since_mark()
                _fill(self._dict(), items)
            case "ADDITEMS":
                items = self._since_mark()
                _gather(self._top(set), items)
            case "GLOBAL":
                push(self._global(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                push(self._global(*self._pop(2)))
            case "REDUCE" | "NEWOBJ":
                push(self._call(*self._pop(2)))
            case "NEWOBJ_EX":
                function, args, keywords = self._pop(3)
                if keywords != {}:
                    raise CheckpointError("its pickle makes an object with keywords")
                push(self._call(function, args))
            case "INST":
                args = tuple(self._since_mark())
                function = self._global(*arg.split(" ", 1))
                self.stack.append(self._call(function, args))
            case "OBJ":
                function, *args = self._since_mark() or [None]
                self.stack.append(self._call(function, tuple(args)))
            case "BUILD":
                (state,) = self._pop(1)
                self._build(state)
            case "BINPERSID" | "PERSID":
                (key,) = self._pop(1) if name == "BINPERSID" else (arg,)
                if self.persistent is None:
                    raise CheckpointError(
                        "its pickle refers to storages outside of it; give the whole"
                        " file that it was part of"
                    )
                self.stack.append(self.persistent(key))
            case "FRAME":
                pass
            case "PROTO" if arg <= 5:
                pass
            case _:
                raise CheckpointError(
                    f"its pickle uses {name} {raw.shown(arg)}, which no checkpoint"
                    " needs; save the weights as safetensors"
                )

    def _pop(self, num: int) -> list[Any]:
        if len(self.stack) < num:
            raise _damaged("it takes what it never gave")
        items = self.stack[-num:]
        del self.stack[-num:]
        return items

    def _since_mark(self) -> list[Any]:
        if not self.below:
            raise _damaged("it goes back to a mark that it never made")
        items, self.stack = self.stack, self.below.pop()
        return items

    def _replace(self, make: Callable[[list], Any]) -> None:
        made = make(self._since_mark())
        self.stack.append(made)

    def _top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise _damaged(f"it adds to something that is no {kind.__name__}")
        return self.stack[-1]

    def _dict(self) -> dict:
        if self.stack and type(self.stack[-1]) is Stub:
            return self.stack[-1].items
        return self._top(dict)

    def _remember(self, place: int) -> None:
        # Writers count up, from 0 or from 1. Free numbers could be made to collide.
        if not 0 <= place <= len(self.memo) + 1 or not self.stack:
            raise _damaged(f"it stores object {raw.shown(place)} out of turn")
        self.memo[place] = top = self.stack[-1]
        if isinstance(top, Inert):
            top.place = place

    def _global(self, module: Any, name: Any) -> Global:
        if type(module) is not str or type(name) is not str:
            raise CheckpointError("its pickle asks for a name that is no string")
        if (module, name) not in self.globals:
            raise CheckpointError(
                f"its pickle asks for {raw.shown(module)}.{raw.shown(name)}; only data"
                " is read, and nothing was run: save the weights alone, best as"
                " safetensors"
            )
        return Global(module, name, self.globals[module, name])

    def _call(self, function: Any, args: Any) -> Any:
        if type(function) is not Global or function.call is None:
            named = str(function) if type(function) is Global else function
            raise CheckpointError(f"its pickle calls {raw.shown(named)}")
        if type(args) is not tuple:
            raise _damaged(f"it calls {function} with no arguments")
        # One stored run of bytes, recalled and copied often, would fill the memory.
        self.copied += sum(len(a) for a in args if type(a) in SIZED and len(a) > SHORT)
        if self.copied > 2 * len(self.data.view):
            raise CheckpointError("its pickle copies its content over and over")
        try:
            return function.call(*args)
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise _damaged(f"{function} gets arguments that it cannot take") from error

    def _build(self, state: Any) -> None:
        (target,) = self._pop(1)
        # What an OrderedDict of weights says of the modules they come from.
        if type(target) is dict and type(state) is dict and [*state] == ["_metadata"]:
            self.stack.append(target)
            return
        if not isinstance(target, Inert):
            raise CheckpointError(
                f"its pickle sets the state of a {type(target).__name__}"
            )
        built = target.build(state)
        if built is not target and target.place is not None:
            self.memo[target.place] = built
        self.stack.append(built)


def _damaged(why: str) -> CheckpointError:
    return CheckpointError(f"its pickle is damaged: {why}; copy or download it again")


def _fill(target: dict, items: list) -> dict:
    if len(items) % 2:
        raise _damaged("a dict has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        _check_key(key, target)
        target[key] = value
    return target


def _gather(target: set, items: Iterable[Any]) -> set:
    for key in items:
        _check_key(key, target)
        target.add(key)
    return target


def _check_key(key, target):
    # Other keys have hashes that walk, or that are easily made equal.
    if type(key) not in (str, int, bool, type(None)):
        raise CheckpointError(f"its pickle has a {type(key).__name__} as a key")
    if type(key) is int and len(target) >= MAX_INT_KEYS:
        raise CheckpointError(f"its pickle has a dict of over {MAX_INT_KEYS} integers")


def _children(node) -> Iterable[Any]:
    if type(node) is dict:
        return node.values()
    if type(node) in (list, tuple):
        return node
    return node.children() if isinstance(node, Inert) else ()


def _check(value) -> None:
    """Makes sure that whoever walks the value comes to an end, by recursion too.

    An object that is stored once and recalled twice at each of forty levels is small,
    and takes 2**40 steps to walk: nodes are counted as a walk would see them.
    """
    seen: dict[int, tuple[int, int]] = {}  # id: its depth, nodes below and with it
    inside: set[int] = set()
    todo = [(value, False)]
    while todo:
        node, left = todo.pop()
        if left:
            below = [seen.get(id(x), (0, 1)) for x in _children(node)]
            depth = 1 + max((d for d, _ in below), default=0)
            nodes = 1 + sum(n for _, n in below)
            if depth > MAX_DEPTH or nodes > MAX_NODES:
                raise CheckpointError(
                    f"its pickle is nested over {MAX_DEPTH} deep, or has over"
                    f" {MAX_NODES} entries"
                )
            seen[id(node)] = depth, nodes
            inside.discard(id(node))
        elif id(node) in inside:
            raise CheckpointError("its pickle holds an object that holds itself")
        elif id(node) not in seen:
            inside.add(id(node))
            todo.append((node, True))
            todo += [
                (x, False)
                for x in _children(node)
                if type(x) in (dict, list, tuple) or isinstance(x, Inert)
            ]


def _ordered_dict(pairs=()):
    items = [x for pair in pairs for x in _two(pair)]
    return _fill({}, items)


def _two(pair):
    if type(pair) not in (list, tuple) or len(pair) != 2:
        raise _damaged("a dict has an entry that is no pair")
    return pair


def _encode(text, encoding="latin1") -> bytes:
    # How bytes are written in protocols without bytes.
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _damaged("bytes are written in an unknown way")
    return text.encode("latin1")


def _bytes(data=b"", encoding="latin1"):
    if isinstance(data, (bytes, bytearray, memoryview)):
        return data
    return _encode(data, encoding)


def _set(items=()):
    if type(items) not in (list, tuple):
        raise _damaged("a set is made of what is no list")
    return _gather(set(), items)


def _reconstructor(cls, base, state):
    # How objects without a __reduce__ are written in protocols 0 and 1.
    if type(cls) is not Global or cls.call is None or type(base) is not Global:
        raise _damaged("an object is made of what is no class")
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
            raise _damaged("a numpy type has no byte order")
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
            raise _damaged("an array has no state")
        _, shape, dtype, fortran, data = state
        return _array(data, dtype, shape, "F" if fortran is True else "C")

    def children(self):
        raise _damaged("an array has no content")


def _array(data, dtype, shape, order: Any = "C"):
    if type(dtype) is not _Dtype or not isinstance(
        data, (bytes, bytearray, memoryview)
    ):
        raise _damaged("an array is not numbers in bytes")
    if order not in ("C", "F"):
        raise _damaged("an array has no order")
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


PLAIN: Mapping[tuple[str, str], Callable | None] = {
    **dict(_builtins()),
    **dict(_numpy()),
}
