"""Reads the tensors of a PyTorch checkpoint (.pth, .pth.tar) without PyTorch and without running it.

Both forms of `torch.save` are read: the zip of PyTorch 1.6 and later, and the stream of pickles before.
The pickles go through `safe_pickle`'s interpreter with PyTorch's few tensor globals added as inert
names; a tensor is a strided view of bytes, checked against their number.
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
from typing import Any

import numpy as np

from twodal_jax import safe_pickle
from twodal_jax.safe_pickle_arrays import PickleError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1",
    "BoolStorage": "?",
}  # fmt: skip


class _Name(enum.Enum):
    """What a global of PyTorch stands for."""

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


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, made once the storages are read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Machine(safe_pickle.Machine):
    """`safe_pickle.Machine` that knows PyTorch's tensors."""

    @staticmethod
    def known_global(module: Any, name: Any) -> Any:
        if module == "torch._utils" and name in {item.value for item in _Name} - {"OrderedDict"}:
            return _Name(name)
        if (module, name) == ("collections", "OrderedDict"):
            return _Name.ORDERED_DICT
        if module == "torch" and name in _TYPES:
            return _StorageType(_TYPES[name])
        return safe_pickle.Machine.known_global(module, name)

    @staticmethod
    def call(function: Any, arguments: Any) -> Any:
        if function is _Name.ORDERED_DICT and arguments == ():
            return {}
        if function is _Name.REBUILD_PARAMETER:
            return _checked_tensor(arguments[0])
        if function in (_Name.REBUILD_TENSOR, _Name.REBUILD_TENSOR_V2):
            storage, offset, shape, strides = arguments[:4]
            return _checked_tensor(_Tensor(storage, offset, shape, strides))
        if isinstance(function, (_Name, _StorageType)):
            raise PickleError("calls a name of PyTorch in an unexpected way; refused")
        return safe_pickle.Machine.call(function, arguments)

    def op_binpersid(self, _):
        """A reference to a storage: ("storage", type, key, device, number of elements, view)."""
        identity = self.stack.pop()
        if (
            not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage"
            or not isinstance(identity[1], _StorageType) or not isinstance(identity[2], str)
            or type(identity[4]) is not int or not 0 <= identity[4] < 2**40
            or (len(identity) == 6 and identity[5] is not None)
        ):  # fmt: skip
            raise PickleError("broken checkpoint: an unknown reference")
        self.stack.append(_Storage(identity[2], identity[1].dtype, identity[4]))

    def ignores_state(self, target: Any) -> bool:
        return isinstance(target, dict)  # `_metadata` of a state_dict


def _checked_tensor(tensor: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
        raise PickleError("broken checkpoint: a tensor without a storage")
    whole = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > 32 or not all(
        type(number) is int and 0 <= number < 2**40 for number in whole
    ):
        raise PickleError("broken checkpoint: a tensor of an impossible shape")
    last = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides))
    if math.prod(tensor.shape) and tensor.offset + last >= tensor.storage.count:
        raise PickleError("broken checkpoint: a tensor reaches beyond its storage")
    if math.prod(tensor.shape) > tensor.storage.count:
        raise PickleError("broken checkpoint: a tensor larger than its storage")
    return tensor


def load(path: os.PathLike | str) -> Any:
    """Reads a checkpoint: dicts, lists and plain values as saved, tensors as NumPy arrays.

    Raises:
      PickleError: missing, broken, or holds anything but tensors and plain values (the message names it).
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return _load_zip(path) if zipped else _load_legacy(path)
    except OSError as error:
        raise PickleError(f"{path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError) as error:
        if isinstance(error, PickleError):
            raise
        raise PickleError(f"{path}: broken checkpoint ({error})") from None


def _load_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise PickleError(f"{path}: a zip, but not a checkpoint of torch.save (no data.pkl)")
        root = names[0].removesuffix("data.pkl")
        content = safe_pickle.run(_Machine(), io.BytesIO(archive.read(names[0])), str(path))
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise PickleError(f"{path}: written on a big-endian machine, which is not read")
        return _with_arrays(content, lambda storage: archive.read(f"{root}data/{storage.key}"), path)


def _load_legacy(path: pathlib.Path) -> Any:
    stream = io.BytesIO(path.read_bytes())
    if safe_pickle.run(_Machine(), stream, str(path)) != LEGACY_MAGIC:
        raise PickleError(f"{path}: a pickle, but not a checkpoint of torch.save")
    safe_pickle.run(_Machine(), stream, str(path))  # the protocol's version
    system = safe_pickle.run(_Machine(), stream, str(path))
    if not (isinstance(system, dict) and system.get("little_endian", True)):
        raise PickleError(f"{path}: written on a big-endian machine, which is not read")
    content = safe_pickle.run(_Machine(), stream, str(path))
    keys = safe_pickle.run(_Machine(), stream, str(path))
    counts = _storages(content)
    parts = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        storage = counts.get(key)
        if storage is None or storage.count != count:
            raise PickleError(f"{path}: broken checkpoint: storage {key!r} of {count} elements")
        parts[key] = stream.read(count * np.dtype(storage.dtype).itemsize)
    return _with_arrays(content, lambda storage: parts[storage.key], path)


def _storages(content: Any) -> dict[str, _Storage]:
    """{key: storage} of all tensors inside; without recursion."""
    found, queue, seen = {}, [content], set()
    while queue:
        value = queue.pop()
        if isinstance(value, _Tensor):
            found[value.storage.key] = value.storage
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            queue.extend(value.values() if isinstance(value, dict) else value)
    return found


def _with_arrays(content: Any, read: Callable[[_Storage], bytes], path: pathlib.Path) -> Any:
    """The same containers with arrays in the place of tensors."""
    flat: dict[str, np.ndarray] = {}

    def storage_of(storage: _Storage) -> np.ndarray:
        if storage.key not in flat:
            data = read(storage)
            dtype = np.dtype(storage.dtype)
            if len(data) != storage.count * dtype.itemsize:
                raise PickleError(f"{path}: broken checkpoint: storage {storage.key!r} has {len(data)} bytes")
            flat[storage.key] = np.frombuffer(data, dtype)
        return flat[storage.key]

    def replaced(value: Any, depth: int) -> Any:
        if depth > 20:
            raise PickleError(f"{path}: nested too deeply for a checkpoint")
        if isinstance(value, _Tensor):
            source = storage_of(value.storage)[value.offset :]
            strides = [step * source.itemsize for step in value.strides]
            view = np.lib.stride_tricks.as_strided(source, value.shape, strides, writeable=False)
            return np.array(view)
        if isinstance(value, dict):
            return {key: replaced(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(item, depth + 1) for item in value)
        if isinstance(value, (_Storage, _StorageType, _Name)):
            raise PickleError(f"{path}: broken checkpoint: a bare name of PyTorch")
        return value

    return replaced(content, 0)


