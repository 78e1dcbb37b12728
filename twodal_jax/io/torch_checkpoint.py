"""Reader of the tensors of a PyTorch checkpoint (.pth, .pth.tar) that needs no PyTorch and runs no code of the file.

Reads both forms of `torch.save`: the zip of PyTorch 1.6 and later, and the stream of pickles before. The interpreter of
`pickle_arrays` reads the pickles, with PyTorch's few tensor globals added as inert names. A tensor is a strided view of
bytes and is checked against their number.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import math
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from twodal_jax.io import npy, pickle_arrays, untrusted
from twodal_jax.io.pickle_arrays import Limits, PickleError, short
from twodal_jax.io.untrusted import array_bytes, BrokenFileError, check_values

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_MAX_PICKLE = 2**24
_BIG_ENDIAN = "written on a big-endian machine, which is not supported"
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")


class _Name(enum.Enum):
    """Meaning of a global of PyTorch."""

    REBUILD_TENSOR = "_rebuild_tensor"
    REBUILD_TENSOR_V2 = "_rebuild_tensor_v2"
    REBUILD_PARAMETER = "_rebuild_parameter"
    ORDERED_DICT = "OrderedDict"


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; becomes an array once the storages are read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Interpreter(pickle_arrays.Interpreter):
    """`pickle_arrays.Interpreter` with PyTorch's tensors."""

    @staticmethod
    def known_global(module: Any, name: Any) -> Any:
        """The meaning of a global of PyTorch or NumPy."""
        if module == "torch._utils" and isinstance(name, str) and name in _REBUILD:
            return _Name(name)
        if (module, name) == ("collections", "OrderedDict"):
            return _Name.ORDERED_DICT
        if module == "torch" and isinstance(name, str) and name in _TYPES:
            return _StorageType(_TYPES[name])
        return pickle_arrays.known_global(module, name)

    @staticmethod
    def call(function: Any, arguments: Any) -> Any:
        """The result of a pickled call of PyTorch's or NumPy's."""
        if function is _Name.ORDERED_DICT and arguments == ():
            return {}
        if function is _Name.REBUILD_PARAMETER:
            return _checked_tensor(arguments[0])
        if function in (_Name.REBUILD_TENSOR, _Name.REBUILD_TENSOR_V2):
            storage, offset, shape, strides = arguments[:4]
            return _checked_tensor(_Tensor(storage, offset, shape, strides))
        if isinstance(function, (_Name, _StorageType)):
            raise PickleError("calls a name of PyTorch in an unexpected way; refused")
        return pickle_arrays.call(function, arguments)

    def _op_binpersid(self, _):
        """A reference to a storage: ("storage", type, key, device, number of elements, view)."""
        identity = self.stack.pop()
        if (
            not isinstance(identity, tuple)
            or len(identity) not in (5, 6)
            or not isinstance(identity[0], str)
            or identity[0] != "storage"
            or not isinstance(identity[1], _StorageType)
            or not isinstance(identity[2], str)
            or type(identity[4]) is not int
            or not 0 <= identity[4] < 2**40
            or (len(identity) == 6 and identity[5] is not None)
        ):
            raise PickleError("broken checkpoint: an unknown reference")
        self.stack.append(_Storage(identity[2], identity[1].dtype, identity[4]))

    def ignores_state(self, target: Any) -> bool:
        """True for a dict, whose state is the `_metadata` of a state_dict."""
        return isinstance(target, dict)

    @staticmethod
    def leaf_bytes(value: Any) -> int:
        """Memory of a tensor or of a value of `pickle_arrays`."""
        if isinstance(value, _Tensor):
            return array_bytes(value.shape, np.dtype(value.storage.dtype).itemsize)
        return pickle_arrays.leaf_bytes(value)


def _checked_tensor(tensor: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
        raise PickleError("broken checkpoint: a tensor without a storage")
    if (
        not isinstance(tensor.shape, tuple)
        or not isinstance(tensor.strides, tuple)
        or len(tensor.shape) != len(tensor.strides)
        or not all(type(number) is int and 0 <= number < 2**40 for number in (tensor.offset, *tensor.strides))
    ):
        raise PickleError("broken checkpoint: a tensor of an impossible shape")
    array_bytes(tensor.shape, 8)
    last = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides))
    if math.prod(tensor.shape) and tensor.offset + last >= tensor.storage.count:
        raise PickleError("broken checkpoint: a tensor extends beyond its storage")
    if math.prod(tensor.shape) > tensor.storage.count:
        raise PickleError("broken checkpoint: a tensor is larger than its storage")
    return tensor


def load(path: os.PathLike | str) -> Any:
    """Reads a checkpoint: dicts, lists and plain values as saved, tensors as NumPy arrays.

    Raises:
      PickleError: the file is missing, broken, or holds anything but tensors and plain values, which the message names.
    """
    path = pathlib.Path(path)
    try:
        with untrusted.opened(path, "checkpoint", npy.ZIP_DAMAGE) as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _load_zip(file) if zipped else _load_legacy(file)
    except PickleError:
        raise
    except BrokenFileError as error:
        raise PickleError(str(error)) from None


def _load_zip(file: BinaryIO) -> Any:
    with npy.open_zip(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise PickleError("a zip, but not a checkpoint of torch.save (no data.pkl)")
        root = names[0].removesuffix("data.pkl")
        limits = Limits(untrusted.size_of(file))
        pickled = io.BytesIO(_member(archive, names[0], _MAX_PICKLE))
        content = pickle_arrays.run(_Interpreter(limits), pickled, "data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and _member(archive, order, 10) != b"little":
            raise PickleError(_BIG_ENDIAN)

        def read(storage: _Storage) -> bytes:
            limits.allocate(storage.nbytes)
            data = _member(archive, f"{root}data/{storage.key}", storage.nbytes)
            if len(data) != storage.nbytes:
                key = short(storage.key)
                raise PickleError(f"storage '{key}' has {len(data)} bytes, not {storage.nbytes}")
            return data

        return _with_arrays(content, read, limits)


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Reads a member of the zip, which torch.save never compresses."""
    info = archive.getinfo(name)
    if info.file_size > most:
        raise PickleError(f"{short(name)} has {info.file_size} bytes, at most {most} were expected")
    data = np.empty(info.file_size, np.uint8)
    with npy.open_member(archive, info) as member:
        npy.read_into(member, memoryview(data))
    return data.tobytes()


def _load_legacy(file: BinaryIO) -> Any:
    size = untrusted.size_of(file)
    limits, stream = Limits(size), io.BytesIO(file.read(size))

    def unpickle(part: str) -> Any:
        return pickle_arrays.run(_Interpreter(limits), stream, part)

    magic = unpickle("its first pickle")
    if type(magic) is not int or magic != LEGACY_MAGIC:
        raise PickleError("a pickle, but not a checkpoint of torch.save")
    unpickle("the protocol's version")
    system = unpickle("the system's description")
    if not isinstance(system, dict) or system.get("little_endian", True) is not True:
        raise PickleError(_BIG_ENDIAN)
    content, keys = unpickle("the content"), unpickle("the list of storages")
    storages, parts = _storages(content), {}
    for key in keys if isinstance(keys, list) else ():
        count = int.from_bytes(stream.read(8), "little")
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.count != count:
            raise PickleError(f"no tensor uses storage '{short(key)}' of {count} elements")
        parts[key] = stream.read(storage.nbytes)
        if len(parts[key]) != storage.nbytes:
            raise PickleError("ends early")
    return _with_arrays(content, lambda storage: parts[storage.key], limits)


def _storages(content: Any) -> dict[str, _Storage]:
    """{key: storage} of all tensors; PickleError if two storages share a key.

    Each tensor was checked against the size that its own storage claims, so one key must mean one size.
    """
    found: dict[str, _Storage] = {}
    queue, seen = [content], set()
    while queue:
        value = queue.pop()
        if isinstance(value, _Tensor):
            if found.setdefault(value.storage.key, value.storage) != value.storage:
                raise PickleError(f"storage '{short(value.storage.key)}' has two types or sizes")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            queue.extend(value.values() if isinstance(value, dict) else value)
    return found


def _with_arrays(content: Any, read: Callable[[_Storage], bytes], limits: Limits) -> Any:
    """Replaces the tensors in the containers by arrays; shared objects stay shared."""
    flat = {key: np.frombuffer(read(storage), storage.dtype) for key, storage in _storages(content).items()}
    made: dict[int, Any] = {}

    def array_of(tensor: _Tensor) -> np.ndarray:
        source = flat[tensor.storage.key][tensor.offset :]
        limits.allocate(math.prod(tensor.shape) * source.itemsize)
        strides = [step * source.itemsize for step in tensor.strides]
        view = np.lib.stride_tricks.as_strided(source, tensor.shape, strides, writeable=False)
        return check_values(np.array(view))

    def replaced(value: Any) -> Any:
        """Recursive, because `pickle_arrays` limits the depth."""
        if not isinstance(value, (_Tensor, dict, list, tuple)):
            return value
        if id(value) not in made:
            if isinstance(value, _Tensor):
                made[id(value)] = array_of(value)
            elif isinstance(value, dict):
                made[id(value)] = {key: replaced(item) for key, item in value.items()}
            else:
                made[id(value)] = type(value)(replaced(item) for item in value)
        return made[id(value)]

    return replaced(content)
