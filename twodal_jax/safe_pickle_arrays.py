"""The globals that pickles of NumPy arrays contain, as inert stand-ins; see `safe_pickle`."""

from __future__ import annotations

import enum
import re
from typing import Any

import numpy as np

from twodal_jax.outside_files import array_bytes, check_values
from twodal_jax.safe_pickle_limits import PickleError, plain_key, short


class Global(enum.Enum):
    """What a known global stands for."""

    RECONSTRUCT = "an empty array to be filled by its state"
    NDARRAY = "the array type"
    DTYPE = "an element type"
    SCALAR = "a NumPy scalar"
    FROMBUFFER = "an array of protocol 5"
    ENCODE = "bytes written by Python 3 in a protocol before 3"
    BYTES = "the empty bytes of such a protocol"
    SET = "a set"
    FROZENSET = "a frozenset"
    BYTEARRAY = "a bytearray"


_KNOWN = {
    ("numpy", "ndarray"): Global.NDARRAY,
    ("numpy", "dtype"): Global.DTYPE,
    ("_codecs", "encode"): Global.ENCODE,
}
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
    """An array or element type whose content comes with its state (the BUILD opcode)."""

    def __init__(self, dtype: np.dtype | None = None):
        self.dtype = dtype  # None: an array
        self.memo_keys: list[int] = []


def known_global(module: Any, name: Any) -> Global:
    """The stand-in of module.name; PickleError naming it for anything unknown."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleError("broken pickle: a global without a name")
    if (module, name) not in _KNOWN:
        raise PickleError(f"contains {short(module)}.{short(name)}; only NumPy arrays and plain containers are"
                          " read, because a pickle that names other things can run any program")
    return _KNOWN[module, name]


def call(function: Any, arguments: Any) -> Any:
    """What the pickled call function(*arguments) makes, for stand-ins only."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise PickleError("calls something that is not NumPy's; refused")
    if function is Global.RECONSTRUCT:
        if not arguments or arguments[0] is not Global.NDARRAY:
            raise PickleError("reconstructs something else than an array; refused")
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
        if not isinstance(axes, tuple | list) or len(axes) != array.ndim or any(
                type(axis) is not int for axis in axes):
            raise PickleError("broken pickle: impossible axes of an array")
        return array.transpose(tuple(axes))
    if function is Global.ENCODE:
        text, encoding = arguments
        if not (isinstance(text, str) and isinstance(encoding, str)) or encoding not in ("latin1", "latin-1"):
            raise PickleError("encodes text otherwise than NumPy does; refused")
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
    """The BUILD opcode: the array or element type that `target` becomes by its state."""
    if not isinstance(target, Pending) or not isinstance(state, tuple):
        raise PickleError("sets the state of something that is no array; refused")
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
        raise PickleError(f"an array of type '{short(code)}' (objects or unknown); only plain"
                          " numbers and text are read")
    try:
        return np.dtype(code)
    except TypeError:
        raise PickleError(f"an array of unknown type {code!r}") from None


def as_dtype(value: Any) -> np.dtype:
    """`value`, checked to be a finished element type."""
    if not isinstance(value, np.dtype):
        raise PickleError("broken pickle: an array without an element type")
    return value


def make_array(shape: Any, dtype: np.dtype, data: Any, *, fortran: bool) -> np.ndarray:
    """A fresh array from raw bytes, after checking that shape, type and bytes agree."""
    data = _as_bytes(data)
    if not isinstance(data, (bytes, bytearray)):
        raise PickleError("an array of objects; only plain numbers and text are read")
    if not isinstance(shape, tuple):
        raise PickleError("broken pickle: an impossible array shape")
    needed = array_bytes(shape, dtype.itemsize)
    if needed != len(data):
        raise PickleError(f"broken pickle: an array of shape {shape} needs {needed} bytes,"
                          f" it has {len(data)}")
    flat = np.frombuffer(data, dtype)
    return check_values(flat.reshape(shape, order="F" if fortran else "C").copy(order="K"))


def _as_bytes(data: Any) -> Any:
    """Python 2 wrote bytes as text."""
    return data.encode("latin-1") if isinstance(data, str) else data
