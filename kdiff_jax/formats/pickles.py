"""Reads pickles as data: a small machine that calls nothing but what it is handed.

`pickletools` cuts a stream into opcodes, and this module knows what each one does to
the stack. Names become entries of a list that the caller gives, classes become inert
stand-ins, and whatever else a pickle asks for is refused by name. What comes out is a
tree: no cycles, of bounded depth and bounded size to whoever walks it.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import raw
from kdiff_jax.formats.pickle_objects import (
    Global,
    Inert,
    Stub,
    damaged,
    fill,
    gather,
)

MAX_OPS = 1_000_000  # the largest public EDM networks need about a hundred thousand
MAX_DEPTH = 200
MAX_NODES = 4_000_000
MAX_INT = 2**127
VIEW = 4096  # bytes in a row that are not copied
SHORT = 8  # length up to which an argument may be used again and again

SIZED = (str, bytes, bytearray, memoryview, list, tuple, dict, set)
LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING"
    " SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES"
    " SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)


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
            raise damaged(f"{why}, at byte {self.data.tell()}") from error
        if self.below or len(self.stack) != 1:
            raise damaged("it ends with an unfinished object")
        return self.stack[0]

    def _step(self, name: str, arg: Any) -> None:
        push = self.stack.append
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                if arg not in self.memo:
                    raise damaged(f"it recalls object {raw.shown(arg)}, which is not")
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
                self._replace(lambda items: fill({}, items))
            case "FROZENSET":
                self._replace(lambda items: frozenset(gather(set(), items)))
            case "APPEND":
                (item,) = self._pop(1)
                self._top(list).append(item)
            case "APPENDS":
                items = self._since_mark()
                self._top(list).extend(items)
            case "SETITEM":
                items = self._pop(2)
                fill(self._dict(), items)
            case "SETITEMS":
                items = self._since_mark()
                fill(self._dict(), items)
            case "ADDITEMS":
                items = self._since_mark()
                gather(self._top(set), items)
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
            raise damaged("it takes what it never gave")
        items = self.stack[-num:]
        del self.stack[-num:]
        return items

    def _since_mark(self) -> list[Any]:
        if not self.below:
            raise damaged("it goes back to a mark that it never made")
        items, self.stack = self.stack, self.below.pop()
        return items

    def _replace(self, make: Callable[[list], Any]) -> None:
        made = make(self._since_mark())
        self.stack.append(made)

    def _top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise damaged(f"it adds to something that is no {kind.__name__}")
        return self.stack[-1]

    def _dict(self) -> dict:
        if self.stack and type(self.stack[-1]) is Stub:
            return self.stack[-1].items
        return self._top(dict)

    def _remember(self, place: int) -> None:
        # Writers count up, from 0 or from 1. Free numbers could be made to collide.
        if not 0 <= place <= len(self.memo) + 1 or not self.stack:
            raise damaged(f"it stores object {raw.shown(place)} out of turn")
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
            raise damaged(f"it calls {function} with no arguments")
        # One stored run of bytes, recalled and copied often, would fill the memory.
        self.copied += sum(len(a) for a in args if type(a) in SIZED and len(a) > SHORT)
        if self.copied > 2 * len(self.data.view):
            raise CheckpointError("its pickle copies its content over and over")
        try:
            return function.call(*args)
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise damaged(f"{function} gets arguments that it cannot take") from error

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
