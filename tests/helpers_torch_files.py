"""Writer of files as `torch.save` makes them, in both forms, without PyTorch.

Follows the format (the opcodes that PyTorch's pickles contain) and shares no code with the reader.
"""

import io
import pickle
import zipfile

import numpy as np

_STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage"}


class _FakeModule:
    """A picklable object that is written as the global module.name."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__, self.__name__ = module, name, name


class _Tensor:
    def __init__(self, array):
        self.array = np.asarray(array)


class _Pickler(pickle._Pickler):
    """Python's own pickler, with tensors, and globals by name."""

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def global_name(self, module, name):
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _FakeModule):
            return self.global_name(obj.__module__, obj.__name__)
        if isinstance(obj, _Tensor):
            return self.save_tensor(obj.array)
        return super().save(obj, save_persistent_id)

    def save_tensor(self, array):
        key = str(len(self.storages))
        storage = array.copy(order="K")
        order = storage.ravel(order="K")
        self.storages.append((key, order))
        strides = tuple(step // array.itemsize for step in storage.strides)
        self.global_name("torch._utils", "_rebuild_tensor_v2")
        self.write(pickle.MARK)
        kind = _FakeModule("torch", _STORAGES[array.dtype.str[1:]])
        super().save(("storage", kind, key, "cpu", order.size))
        self.write(pickle.BINPERSID)
        for part in (0, array.shape, strides, False):
            super().save(part)
        self.global_name("collections", "OrderedDict")
        self.write(pickle.EMPTY_TUPLE + pickle.REDUCE)
        self.write(pickle.TUPLE + pickle.REDUCE)


def _prepared(value):
    """Replaces arrays inside dicts and lists by tensors."""
    if isinstance(value, np.ndarray):
        return _Tensor(value)
    if isinstance(value, dict):
        return {key: _prepared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_prepared(item) for item in value]
    return value


def _pickled(value):
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(_prepared(value))
    return file.getvalue(), pickler.storages


def save_zip(path, value):
    """The form of PyTorch 1.6 and later."""
    data, storages = _pickled(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, storage in storages:
            archive.writestr(f"archive/data/{key}", storage.tobytes())
        archive.writestr("archive/version", "3\n")


def save_legacy(path, value):
    """The stream of pickles of PyTorch before 1.6."""
    data, storages = _pickled(value)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(part, file, protocol=2)
        file.write(data)
        pickle.dump([key for key, _ in storages], file, protocol=2)
        for _, storage in storages:
            file.write(storage.size.to_bytes(8, "little") + storage.tobytes())


def save_global(path, module, name, legacy=False):
    """A file that names module.name and calls it, as a hostile file would."""
    data = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"U\x04echo\x85R."
    if legacy:
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + data)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
