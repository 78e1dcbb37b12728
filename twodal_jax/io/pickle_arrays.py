"""Reader of pickles of NumPy arrays and plain containers.

`pickle.load` runs whatever a file names, and an allow-list of NumPy's own constructors still lets a forged file call
them with arguments that crash the process. Here no function of the file is called: the opcodes are interpreted
(`pickletools` reads their arguments), the few globals of NumPy's pickles are inert names, and `np.frombuffer` makes
arrays once type, shape and number of bytes agree. The number of opcodes is limited, and so is the memory of their
results, because a few opcodes can multiply shared data. Reads protocols 0 to 5, of Python 2 and 3, NumPy 1 and 2.
"""

from __future__ import annotations

import codecs
import enum
import io
import os
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from twodal_jax.io import untrusted
from twodal_jax.io.untrusted import array_bytes, BrokenFileError, check_values, memory_budget

MAX_OPCODES = 300_000  # a pickle of arrays has some hundred, a checkpoint of PyTorch ten thousand
MAX_DEPTH = 50
MAX_MEMO = 2**32
MAX_BITS = 1000  # of integers; all can become floats and be printed
_NODE_BYTES = 256  # about what a value takes once Python or NumPy unfolds it
_PLAIN = (str, bytes, int, float, bool, type(None))

_MARK = object()
_ESCAPED = re.compile(rb"""(?:[^\\]++|\\[\\'"nrtx])*+""")  # the escapes that Python 2 writes
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError, MemoryError, RecursionError)


class PickleError(BrokenFileError):
    """A pickle is broken, or holds something other than arrays and plain containers."""


class Limits:
    """Limits of one file: the opcodes and the bytes that it may still use."""

    def __init__(self, size: int):
        self.opcodes, self.budget = MAX_OPCODES, memory_budget(size)
        self.left = self.budget

    def count_opcode(self) -> None:
        """Counts one opcode; PickleError above `MAX_OPCODES`."""
        self.opcodes -= 1
        if self.opcodes < 0:
            raise PickleError(f"more than {MAX_OPCODES:,} opcodes, which no pickle of arrays has")

    def allocate(self, count: int) -> None:
        """Counts bytes; PickleError above the file's memory budget."""
        self.left -= count
        if self.left < 0:
            raise PickleError("makes more data than a file of this size may")


def plain_key(key: Any) -> Any:
    """Returns a dictionary's key or a set's member if it is a plain value.

    Hashing a forged, deeply nested tuple could crash, and integers beyond 64 bits can be chosen to share one hash.
    """
    if type(key) not in _PLAIN or (type(key) is int and not -(2**63) <= key < 2**64):
        raise PickleError(f"broken pickle: a key of type {type(key).__name__}")
    return key


def short(value: Any) -> str:
    """Formats a value of a file for a message: text truncated, of anything else the type."""
    return value[:60] if isinstance(value, str) else type(value).__name__


def made_bytes(value: Any) -> int:
    """Memory of the result of a call; containers count their members only."""
    if isinstance(value, np.ndarray | np.generic):
        return value.nbytes
    return len(value) * (64 if isinstance(value, set | frozenset) else 1) if hasattr(value, "__len__") else 0


def leaf_bytes(value: Any) -> int:
    """Memory of a value that holds no other values; PickleError for anything that cannot be a result."""
    kinds = (*_PLAIN, bytearray, np.ndarray, set, frozenset)
    if type(value) in kinds or isinstance(value, np.generic):
        return _NODE_BYTES + made_bytes(value)
    raise PickleError("broken pickle: an unfinished array, a bare function or an open mark")


def check_finished(root: Any, leaf_bytes: Callable[[Any], int], budget: int) -> Any:
    """Returns `root` if it consists of values and containers, without cycles, not deeply nested and within `budget`.

    Containers may share their members, so that a short file can unfold to any size: each use is counted. Nothing here
    recurses.
    """
    depths: dict[int, int] = {}
    sizes: dict[int, int] = {}
    open_containers, stack = set(), [(root, False)]
    while stack:
        value, is_done = stack.pop()
        key = id(value)
        if is_done:
            open_containers.discard(key)
            parts = [id(part) for part in _parts(value)]
            depths[key] = 1 + max((depths[part] for part in parts), default=0)
            sizes[key] = _NODE_BYTES + sum(sizes[part] for part in parts)
            if depths[key] > MAX_DEPTH:
                raise PickleError(f"nested more than {MAX_DEPTH} deep")
            if sizes[key] > budget:
                raise PickleError("unfolds to more data than a file of this size may hold")
        elif key in open_containers:
            raise PickleError("a container contains itself")
        elif key not in sizes:
            if isinstance(value, dict | list | tuple):
                open_containers.add(key)
                stack.append((value, True))
                stack.extend((part, False) for part in _parts(value))
            else:
                depths[key], sizes[key] = 0, leaf_bytes(value)
    return root


def _parts(value: dict | list | tuple) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


class Global(enum.Enum):
    """Meaning of a known global."""

    RECONSTRUCT = "an empty array that its state will fill"
    NDARRAY = "the array type"
    DTYPE = "an element type"
    SCALAR = "a NumPy scalar"
    FROMBUFFER = "an array of protocol 5"
    ENCODE = "bytes that Python 3 wrote in a protocol before 3"
    BYTES = "the empty bytes of such a protocol"
    SET = "a set"
    FROZENSET = "a frozenset"
    BYTEARRAY = "a bytearray"


_KNOWN = {("numpy", "ndarray"): Global.NDARRAY, ("numpy", "dtype"): Global.DTYPE, ("_codecs", "encode"): Global.ENCODE}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[(f"{_core}.multiarray", "_reconstruct")] = Global.RECONSTRUCT
    _KNOWN[(f"{_core}.multiarray", "scalar")] = Global.SCALAR
    _KNOWN[(f"{_core}.numeric", "_frombuffer")] = Global.FROMBUFFER
for _builtins in ("builtins", "__builtin__"):
    for _type in (Global.BYTES, Global.SET, Global.FROZENSET, Global.BYTEARRAY):
        _KNOWN[(_builtins, _type.name.lower())] = _type

_ORDERS = ("C", "F", "K", "A")
_DTYPE = re.compile(r"[<>=|]?(?:[?]|[biufc]\d{1,2}|[SU]\d{1,6}|b1)")


class Pending:
    """An array or element type whose content follows with its state (the BUILD opcode)."""

    def __init__(self, dtype: np.dtype | None = None):
        self.dtype = dtype  # None: an array
        self.memo_keys: list[int] = []


def known_global(module: Any, name: Any) -> Global:
    """The meaning of the global module.name; PickleError that names an unknown one."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleError("broken pickle: a global without a name")
    if (module, name) not in _KNOWN:
        raise PickleError(
            f"contains {short(module)}.{short(name)}; only NumPy arrays and plain containers are"
            " read, because a pickle that names other objects can run any program"
        )
    return _KNOWN[module, name]


def call(function: Any, arguments: Any) -> Any:
    """The result of the pickled call function(*arguments), for known globals only."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise PickleError("calls something that is not NumPy's; refused")
    if function is Global.RECONSTRUCT:
        if not arguments or arguments[0] is not Global.NDARRAY:
            raise PickleError("reconstructs something other than an array; refused")
        return Pending()
    if function is Global.DTYPE:
        return Pending(make_dtype(arguments[0] if arguments else None))
    if function is Global.SCALAR:
        dtype, data = arguments
        return make_array((), as_dtype(dtype), data, fortran=False)[()]
    if function is Global.FROMBUFFER:
        data, dtype, shape, order = arguments[:4]
        if type(order) is not str or order not in _ORDERS:
            raise PickleError("broken pickle: an array in an unknown order")
        array = make_array(shape, as_dtype(dtype), data, fortran=order == "F")
        axes = arguments[4] if len(arguments) > 4 and order == "K" else tuple(range(array.ndim))
        if not isinstance(axes, tuple | list) or len(axes) != array.ndim or any(type(axis) is not int for axis in axes):
            raise PickleError("broken pickle: impossible axes of an array")
        return array.transpose(tuple(axes))
    if function is Global.ENCODE:
        text, encoding = arguments
        if not (isinstance(text, str) and isinstance(encoding, str)) or encoding not in ("latin1", "latin-1"):
            raise PickleError("encodes text in another way than NumPy; refused")
        return text.encode("latin-1")
    return _builtin(function, arguments)


def _builtin(function: Global, arguments: tuple) -> Any:
    if function is Global.BYTES and not arguments:
        return b""
    if function is Global.BYTEARRAY and all(type(item) in (bytes, str) for item in arguments[:1]):
        return bytearray(_as_bytes(arguments[0])) if arguments else bytearray()
    if function in (Global.SET, Global.FROZENSET) and all(type(i) is list for i in arguments):
        items = [plain_key(item) for item in arguments[0]] if arguments else []
        return set(items) if function is Global.SET else frozenset(items)
    raise PickleError(f"calls {function.name.lower()} with unexpected arguments; refused")


def with_state(target: Any, state: Any) -> np.ndarray | np.dtype:
    """The BUILD opcode: the array or element type that `target` becomes with its state."""
    if not isinstance(target, Pending) or not isinstance(state, tuple):
        raise PickleError("sets the state of something that is not an array; refused")
    if target.dtype is None:
        if len(state) not in (4, 5):
            raise PickleError("broken pickle: an array's state has an unknown form")
        shape, dtype, fortran, data = state[-4:]
        return make_array(shape, as_dtype(dtype), data, fortran=bool(fortran))
    if len(state) < 5 or any(part is not None for part in state[2:5]):
        raise PickleError("an array of records; only plain numbers and text are read")
    if not isinstance(state[1], str) or state[1] not in ("<", ">", "|", "="):
        raise PickleError(f"broken pickle: byte order {short(state[1])}")
    return target.dtype.newbyteorder(state[1])


def make_dtype(code: Any) -> np.dtype:
    """numpy.dtype(code) for numbers and text of fixed width; PickleError for objects and others."""
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise PickleError(
            f"an array of type '{short(code)}' (objects or unknown); only plain numbers and text are read"
        )
    try:
        return np.dtype(code)
    except TypeError:
        raise PickleError(f"an array of unknown type {code!r}") from None


def as_dtype(value: Any) -> np.dtype:
    """Checks that `value` is a finished element type."""
    if not isinstance(value, np.dtype):
        raise PickleError("broken pickle: an array without an element type")
    return value


def make_array(shape: Any, dtype: np.dtype, data: Any, *, fortran: bool) -> np.ndarray:
    """A new array from raw bytes, after a check that shape, type and number of bytes agree."""
    data = _as_bytes(data)
    if not isinstance(data, (bytes, bytearray)):
        raise PickleError("an array of objects; only plain numbers and text are read")
    if not isinstance(shape, tuple):
        raise PickleError("broken pickle: an impossible array shape")
    needed = array_bytes(shape, dtype.itemsize)
    if needed != len(data):
        raise PickleError(f"broken pickle: an array of shape {shape} needs {needed} bytes, the file has {len(data)}")
    flat = np.frombuffer(data, dtype)
    return check_values(flat.reshape(shape, order="F" if fortran else "C").copy(order="K"))


def _as_bytes(data: Any) -> Any:
    """Python 2 stored bytes as text."""
    return data.encode("latin-1") if isinstance(data, str) else data


def load(path: os.PathLike | str, interpreter: type[Interpreter] | None = None) -> Any:
    """Reads a pickle file, with an `Interpreter` of more globals than NumPy's if one is given.

    Returns:
      NumPy arrays and scalars, dict, list, tuple, set, str, bytes, int, float, bool, None; without cycles, and nested
      at most `MAX_DEPTH` deep.

    Raises:
      PickleError: the file is missing, broken, or contains anything else; the message names the file and the
        offending global, e.g. "posix.system".
    """
    try:
        with untrusted.opened(path, "pickle") as file:
            data = file.read(untrusted.size_of(file))
    except BrokenFileError as error:
        raise PickleError(str(error)) from None
    return run((interpreter or Interpreter)(Limits(len(data))), io.BytesIO(data), str(path))


def loads(data: bytes, name: str = "pickle") -> Any:
    """Like `load`, from bytes; `name` is for messages."""
    return run(Interpreter(Limits(len(data))), io.BytesIO(data), name)


def run(interpreter: Interpreter, stream: io.BytesIO, name: str) -> Any:
    """Interprets one pickle of a stream and leaves the stream's position after it."""
    try:
        while True:
            interpreter.limits.count_opcode()
            opcode, argument = _next(stream, interpreter)
            if opcode == "STOP":
                return interpreter.result()
            interpreter.step(opcode, argument)
    except PickleError as error:
        raise PickleError(f"{name}: {error}") from None
    except _DAMAGE as error:
        raise PickleError(f"{name}: broken pickle at byte {stream.tell()} ({str(error)[:200]})") from None


def _next(stream: io.BytesIO, interpreter: Interpreter) -> tuple[str, Any]:
    """Reads one opcode: its name and argument."""
    code = stream.read(1)
    if not code:
        raise PickleError("the pickle ends early (broken download?)")
    opcode = pickletools.code2op.get(code.decode("latin-1"))
    if opcode is None:
        raise PickleError(f"not a pickle: unknown opcode {code!r} at byte {stream.tell() - 1}")
    if not interpreter.knows(opcode.name):
        raise PickleError(f"uses {opcode.name}, which a pickle of arrays never does; refused")
    if opcode.name == "STRING":  # pickletools reads ASCII only; Python 2 wrote bytes here
        return opcode.name, codecs.escape_decode(_unquote(stream.readline()))[0].decode("latin-1")
    if opcode.name in ("GLOBAL", "INST"):
        module, name = (stream.readline().rstrip(b"\n").decode("utf-8") for _ in range(2))
        return opcode.name, f"{module} {name}"
    argument = None if opcode.arg is None else opcode.arg.reader(stream)
    if type(argument) is int and argument.bit_length() > MAX_BITS:
        raise PickleError("an integer of more than a thousand bits")
    return opcode.name, argument


def _unquote(line: bytes) -> bytes:
    text = line.rstrip(b"\r\n")
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"') or not _ESCAPED.fullmatch(text):
        raise PickleError("broken string")
    return text[1:-1]


class Interpreter:
    """The stack machine of the pickle format with inert globals.

    A format with more globals than NumPy's overrides `known_global`, `call`, `leaf_bytes` and `ignores_state`.
    """

    known_global = staticmethod(known_global)
    call = staticmethod(call)
    leaf_bytes = staticmethod(leaf_bytes)

    def __init__(self, limits: Limits):
        self.limits = limits
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode."""
        if opcode in _CONSTANTS:
            self.stack.append(argument)
        elif opcode in _LITERALS:
            self.stack.append(_LITERALS[opcode]())
        elif opcode in _TUPLE_SIZES:
            size = _TUPLE_SIZES[opcode]
            if len(self.stack) < size:
                raise PickleError("broken pickle: the stack is empty")
            self.stack[-size:] = [tuple(self.stack[-size:])]
        elif opcode not in _NO_EFFECT:
            getattr(self, f"_op_{opcode.lower()}")(argument)

    def knows(self, opcode: str) -> bool:
        """Whether pickles of arrays have this opcode."""
        return opcode in _SIMPLE or hasattr(self, f"_op_{opcode.lower()}")

    def result(self) -> Any:
        """The checked result, once all opcodes were executed."""
        if len(self.stack) != 1:
            raise PickleError(f"broken pickle: {len(self.stack)} objects left at its end")
        return check_finished(self.stack[0], self.leaf_bytes, self.limits.budget)

    def _pop_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise PickleError("broken pickle: no mark")

    # Globals and calls: names are looked up in a fixed table and stay names.
    def _op_global(self, argument):
        module, _, name = argument.partition(" ")
        self.stack.append(self.known_global(module, name))

    def _op_stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.known_global(module, name))

    def _op_inst(self, argument):
        module, _, name = argument.partition(" ")
        self.known_global(module, name)
        raise PickleError(f"makes an object of {short(module)}.{short(name)}; refused")

    def _op_reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments))
        self.limits.allocate(made_bytes(self.stack[-1]))

    def _op_build(self, _):
        state = self.stack.pop()
        pending = self.stack[-1]
        if self.ignores_state(pending):
            return
        self.stack[-1] = with_state(pending, state)
        self.limits.allocate(made_bytes(self.stack[-1]))
        for key in pending.memo_keys:
            self.memo[key] = self.stack[-1]
        pending.memo_keys.clear()  # a forged file may build it repeatedly

    def ignores_state(self, target: Any) -> bool:
        """Whether the state set on `target` carries nothing of use."""
        return False

    # Containers.
    def _op_mark(self, _):
        self.stack.append(_MARK)

    def _op_tuple(self, _):
        self.stack.append(tuple(self._pop_mark()))

    def _op_list(self, _):
        self.stack.append(self._pop_mark())

    def _op_dict(self, _):
        items = self._pop_mark()
        self.stack.append({})
        self._set_items(items)

    def _op_frozenset(self, _):
        self.stack.append(frozenset(plain_key(item) for item in self._pop_mark()))

    def _op_append(self, _):
        item = self.stack.pop()
        self._top(list).append(item)

    def _op_appends(self, _):
        items = self._pop_mark()
        self._top(list).extend(items)

    def _op_additems(self, _):
        items = self._pop_mark()
        self._top(set).update(plain_key(item) for item in items)

    def _op_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _op_setitems(self, _):
        self._set_items(self._pop_mark())

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
    def _op_pop(self, _):
        self.stack.pop()

    def _op_pop_mark(self, _):
        self._pop_mark()

    def _op_dup(self, _):
        self.stack.append(self.stack[-1])

    def _op_put(self, argument):
        self._remember(argument)

    _op_binput = _op_long_binput = _op_put

    def _op_memoize(self, _):
        self._remember(len(self.memo))

    def _remember(self, key: int) -> None:
        if not 0 <= key < MAX_MEMO:
            raise PickleError("broken pickle: an impossible index of its memo")
        value = self.memo[key] = self.stack[-1]
        if isinstance(value, Pending):
            value.memo_keys.append(key)

    def _op_get(self, argument):
        self.stack.append(self.memo[argument])

    _op_binget = _op_long_binget = _op_get


_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING"
    " UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"
    " BYTEARRAY8".split()
)
_LITERALS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = frozenset(("PROTO", "FRAME"))
_SIMPLE = _CONSTANTS | _LITERALS.keys() | _TUPLE_SIZES.keys() | _NO_EFFECT | {"STOP"}
