"""Reads pickles of NumPy arrays and plain containers, and nothing else.

`pickle.load` runs whatever a file names, and an allow-list of NumPy's own constructors still lets a
forged file call them with arguments that crash the process. Here no function of the file is called
at all: the opcodes are interpreted (their arguments are read by `pickletools`), the few globals that
NumPy's pickles contain are inert names, and arrays are made by `np.frombuffer` once type, shape and
number of bytes agree. Opcodes are counted, and so are the bytes of what a few of them make of much that
they share. Reads protocols 0 to 5, from Python 2 and 3 and NumPy 1 and 2.
"""

from __future__ import annotations

import codecs
import io
import os
import pickletools
import re
from typing import Any

from twodal_jax import outside_files
from twodal_jax import safe_pickle_arrays as arrays
from twodal_jax.safe_pickle_limits import (
    Limits, PickleError, check_finished, leaf_bytes, made_bytes, plain_key, short,
)  # fmt: skip

MAX_MEMO = 2**32
MAX_BITS = 1000  # of whole numbers: all can become floats, and be printed

_MARK = object()
_ESCAPED = re.compile(rb"""(?:[^\\]++|\\[\\'"nrtx])*+""")  # the escapes that Python 2 writes
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError, MemoryError,
           RecursionError)  # fmt: skip


def load(path: os.PathLike | str) -> Any:
    """Reads a pickle file.

    Returns:
      NumPy arrays and scalars, dict, list, tuple, set, str, bytes, int, float, bool, None; no circles, and
      nested no deeper than `safe_pickle_limits.MAX_DEPTH`.

    Raises:
      PickleError: the file is missing, broken, or contains anything else; the message names the
        file and the offending global, e.g. "posix.system".
    """
    return loads(read_bytes(path), str(path))


def read_bytes(path: os.PathLike | str) -> bytes:
    """The whole file; PickleError if it cannot be read."""
    try:
        with outside_files.opened(path, "pickle") as file:
            return file.read(outside_files.size_of(file))
    except outside_files.BrokenFileError as error:
        raise PickleError(str(error)) from None


def loads(data: bytes, name: str = "pickle") -> Any:
    """Like `load`, from bytes; `name` is for messages."""
    return run(Machine(Limits(len(data))), io.BytesIO(data), name)


def run(machine: Machine, stream: io.BytesIO, name: str) -> Any:
    """Interprets one pickle of a stream, which is left behind its end."""
    try:
        while True:
            machine.limits.step()
            opcode, argument = _next(stream, machine)
            if opcode == "STOP":
                return machine.result()
            machine.step(opcode, argument)
    except PickleError as error:
        raise PickleError(f"{name}: {error}") from None
    except _DAMAGE as error:
        raise PickleError(f"{name}: broken pickle at byte {stream.tell()} ({str(error)[:200]})") from None


def _next(stream: io.BytesIO, machine: Machine) -> tuple[str, Any]:
    code = stream.read(1)
    if not code:
        raise PickleError("the pickle ends early (broken download?)")
    opcode = pickletools.code2op.get(code.decode("latin-1"))
    if opcode is None:
        raise PickleError(f"not a pickle: unknown opcode {code!r} at byte {stream.tell() - 1}")
    if not machine.knows(opcode.name):
        raise PickleError(f"uses {opcode.name}, which a pickle of arrays never does; refused")
    if opcode.name == "STRING":  # pickletools reads ASCII only, Python 2 wrote bytes here
        return opcode.name, codecs.escape_decode(_unquote(stream.readline()))[0].decode("latin-1")
    if opcode.name in ("GLOBAL", "INST"):
        module, name = (stream.readline().rstrip(b"\n").decode("utf-8") for _ in range(2))
        return opcode.name, f"{module} {name}"
    argument = None if opcode.arg is None else opcode.arg.reader(stream)
    if type(argument) is int and argument.bit_length() > MAX_BITS:
        raise PickleError("a whole number of more than a thousand bits")
    return opcode.name, argument


def _unquote(line: bytes) -> bytes:
    text = line.rstrip(b"\r\n")
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"') or not _ESCAPED.fullmatch(text):
        raise PickleError("broken string")
    return text[1:-1]


class Machine:
    """The stack machine of the pickle format with inert globals.

    A format that knows more globals than NumPy's overrides `known_global`, `call`, `leaf_bytes` and
    `ignores_state`.
    """

    known_global = staticmethod(arrays.known_global)
    call = staticmethod(arrays.call)
    leaf_bytes = staticmethod(leaf_bytes)

    def __init__(self, limits: Limits):
        self.limits = limits
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _CONSTANTS:
            self.stack.append(argument)
        elif opcode in _LITERALS:
            self.stack.append(_LITERALS[opcode]())
        elif opcode in _NO_EFFECT:
            pass
        else:
            getattr(self, f"op_{opcode.lower()}")(argument)

    def knows(self, opcode: str) -> bool:
        """Whether an opcode is one of those that pickles of arrays have."""
        return opcode in _SIMPLE or hasattr(self, f"op_{opcode.lower()}")

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise PickleError(f"broken pickle: {len(self.stack)} objects left at its end")
        return check_finished(self.stack[0], self.leaf_bytes, self.limits.budget)

    def pop_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1:]
                del self.stack[position:]
                return items
        raise PickleError("broken pickle: no mark")

    # Globals and calls: names are looked up in a fixed table and stay names.
    def op_global(self, argument):
        module, _, name = argument.partition(" ")
        self.stack.append(self.known_global(module, name))

    def op_stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.known_global(module, name))

    def op_inst(self, argument):
        module, _, name = argument.partition(" ")
        self.known_global(module, name)
        raise PickleError(f"makes an object of {short(module)}.{short(name)}; refused")

    def op_reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments))
        self.limits.make(made_bytes(self.stack[-1]))

    def op_build(self, _):
        state = self.stack.pop()
        pending = self.stack[-1]
        if self.ignores_state(pending):
            return
        self.stack[-1] = arrays.with_state(pending, state)
        self.limits.make(made_bytes(self.stack[-1]))
        for key in pending.memo_keys:
            self.memo[key] = self.stack[-1]
        pending.memo_keys.clear()  # a forged file may build it again and again

    def ignores_state(self, target: Any) -> bool:
        """Whether the state set on `target` carries nothing that is needed."""
        return False

    # Containers.
    def op_mark(self, _):
        self.stack.append(_MARK)

    def op_tuple(self, _):
        self.stack.append(tuple(self.pop_mark()))

    def op_list(self, _):
        self.stack.append(self.pop_mark())

    def op_dict(self, _):
        items = self.pop_mark()
        self.stack.append({})
        self._set_items(items)

    def op_frozenset(self, _):
        self.stack.append(frozenset(plain_key(item) for item in self.pop_mark()))

    def op_tuple1(self, _):
        self._tuple(1)

    def op_tuple2(self, _):
        self._tuple(2)

    def op_tuple3(self, _):
        self._tuple(3)

    def _tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise PickleError("broken pickle: the stack is empty")
        items = tuple(self.stack[-size:])
        self.stack[-size:] = [items]

    def op_append(self, _):
        item = self.stack.pop()
        self._top(list).append(item)

    def op_appends(self, _):
        items = self.pop_mark()
        self._top(list).extend(items)

    def op_additems(self, _):
        items = self.pop_mark()
        self._top(set).update(plain_key(item) for item in items)

    def op_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def op_setitems(self, _):
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleError("broken pickle: a key without a value")
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2]):
            target[plain_key(key)] = value

    def _top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise PickleError(f"broken pickle: expected a {kind.__name__}")
        return self.stack[-1]

    # Stack and memo.
    def op_pop(self, _):
        self.stack.pop()

    def op_pop_mark(self, _):
        self.pop_mark()

    def op_dup(self, _):
        self.stack.append(self.stack[-1])

    def op_put(self, argument):
        self._remember(argument)

    op_binput = op_long_binput = op_put

    def op_memoize(self, _):
        self._remember(len(self.memo))

    def _remember(self, key: int) -> None:
        if not 0 <= key < MAX_MEMO:
            raise PickleError("broken pickle: an impossible place of its memo")
        value = self.memo[key] = self.stack[-1]
        if isinstance(value, arrays.Pending):
            value.memo_keys.append(key)

    def op_get(self, argument):
        self.stack.append(self.memo[argument])

    op_binget = op_long_binget = op_get


_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING"
    " UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"
    " BYTEARRAY8".split())
_LITERALS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
             "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_NO_EFFECT = frozenset(("PROTO", "FRAME"))
_SIMPLE = _CONSTANTS | _LITERALS.keys() | _NO_EFFECT | {"STOP"}
