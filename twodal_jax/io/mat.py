"""Reader of arrays of numbers and text in MATLAB files, versions 5 to 7.2, without SciPy.

Arrays have the stored type and Fortran order, as from `scipy.io.loadmat`. Structures, cells, objects, sparse and
complex arrays are skipped, or refused by name when they are asked for. Every length is checked against the bytes left,
and compressed data may unpack to `untrusted.memory_budget` at most.

Source: MathWorks, MAT-File Format (level 5).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from twodal_jax.io import untrusted
from twodal_jax.io.untrusted import array_bytes, BrokenFileError, check_values, MAX_DIMENSIONS, memory_budget, size_of

TAG = {order: struct.Struct(f"{order}II") for order in "<>"}
_BLOCK = 2**16
_MAX_COMPRESSION = 1032  # zlib's greatest ratio


class Stream:
    """The bytes of one variable, `left` of them, read through a buffer."""

    def __init__(self, file: BinaryIO, length: int, order: str):
        self.left, self.order, self._file = length, order, file
        self._unread = length
        self._ready, self._at = b"", 0

    def tag(self) -> tuple[int, int, bytes | None]:
        """(type, number of data bytes, the data if they are inside the tag) of the next element."""
        at = self._need(8)
        kind, length = TAG[self.order].unpack_from(self._ready, at)
        if kind >> 16 == 0:
            return kind, length, None
        kind, length = kind & 0xFFFF, kind >> 16
        if length > 4:
            raise BrokenFileError("a small element has more than 4 bytes")
        return kind, length, self._ready[at + 4 : at + 4 + length]

    def small(self, kinds: tuple[int, int], most: int) -> bytes:
        """The data of the next element, of one of `kinds` and at most `most` bytes."""
        kind, length, data = self.tag()
        if kind not in kinds or length > most:
            raise BrokenFileError("the description of a variable has another form")
        if data is None:
            at = self._need(length + -length % 8)
            data = self._ready[at : at + length]
        return data

    def read(self, count: int) -> bytes:
        """Exactly the next `count` bytes."""
        at = self._need(count)
        return self._ready[at : at + count]

    def fill(self, target: memoryview) -> None:
        """Copies the next bytes into `target`."""
        self._take(len(target))
        at = min(len(self._ready) - self._at, len(target))
        target[:at] = self._ready[self._at : self._at + at]
        self._at += at
        while at < len(target):
            more = self._more(min(16 * _BLOCK, len(target) - at))
            target[at : at + len(more)] = more
            at += len(more)

    def finish(self) -> None:
        """Ends reading; `CompressedStream` checks the checksum here."""

    def _need(self, count: int) -> int:
        """Reserves `count` bytes and returns their position in the buffer."""
        self._take(count)
        while len(self._ready) - self._at < count:
            self._ready, self._at = self._ready[self._at :] + self._more(max(_BLOCK, count)), 0
        self._at += count
        return self._at - count

    def _take(self, count: int) -> None:
        if count > self.left:
            raise BrokenFileError("a part is longer than the whole")
        self.left -= count

    def _more(self, most: int) -> bytes:
        """Reads 1 to `most` bytes."""
        data = self._file.read(min(most, self._unread))
        if not data:
            raise BrokenFileError("ends early")
        self._unread -= len(data)
        return data


class CompressedStream(Stream):
    """The bytes of one compressed variable, unpacked as they are needed."""

    def __init__(self, file: BinaryIO, length: int, order: str):
        super().__init__(file, length, order)
        self.left = 8  # the tag inside gives the rest
        self._inflate, self._most = zlib.decompressobj(), _MAX_COMPRESSION * length

    def _take(self, count: int) -> None:
        if count > self._most:
            raise BrokenFileError("claims to unpack to more than zlib can pack")
        super()._take(count)

    def _more(self, most: int) -> bytes:
        data = self._unpack(most)
        if not data:
            raise BrokenFileError("ends early")
        return data

    def _unpack(self, most: int) -> bytes:
        """Unpacks up to `most` bytes; none at the end."""
        while not self._inflate.eof:
            source = self._inflate.unconsumed_tail or self._file.read(min(self._unread, _BLOCK))
            if source is not self._inflate.unconsumed_tail:
                self._unread -= len(source)
            data = self._inflate.decompress(source, most)
            if data or not source:
                return data
        return b""

    def finish(self) -> None:
        """Lets zlib check the checksum of the unpacked data."""
        rest = len(self._ready) - self._at + len(self._unpack(_BLOCK))
        if rest >= 8 or not self._inflate.eof:
            raise BrokenFileError("damaged, or longer than it says")


_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED, _UTF8 = 1, 5, 6, 14, 15, 16
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CHAR, _NUMERIC, _OPAQUE = 4, range(6, 16), 17
_KINDS = {1: "a cell array", 2: "a structure", 3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object"}
_COMPLEX = 0x0800
_MAX_VARIABLES, _MAX_NAME, _MAX_TEXT = 10_000, 4096, 2**20


class _Variable(NamedTuple):
    """One variable, whose data are next in its stream; `problem` says why it cannot be read, or is empty."""

    name: str
    kind: int
    shape: tuple[int, ...]
    problem: str
    stream: Stream


def read(path: os.PathLike | str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a MATLAB file.

    Args:
      path: a file of MATLAB 5 to 7.2 ("-v7" or "-v6"); not of 4, and not of 7.3, which is HDF5.
      names: the variables to read; others are not even unpacked. Default: all arrays of numbers and text.

    Returns:
      {name: array} in the file's order, at least 2-D; text has type U and one dimension less. `names` that the file
      lacks are left out.

    Raises:
      BrokenFileError: the file is missing, damaged or of another form, or one of `names` is not a plain array.
    """
    with untrusted.opened(path, ".mat file", (zlib.error, struct.error)) as file:
        budget, arrays = memory_budget(size_of(file)), {}
        for variable in _variables(file):
            if names is None and variable.problem or names is not None and variable.name not in names:
                continue
            if variable.problem:
                raise BrokenFileError(f"`{variable.name}` is {variable.problem}")
            array = _read_array(variable, budget)
            budget -= array.nbytes
            arrays[variable.name] = array
            if names is not None and len(arrays) == len(names):
                break
        return arrays


def variable_names(path: os.PathLike | str) -> list[str]:
    """Names of all variables, including those that `read` refuses. Raises BrokenFileError as `read` does."""
    with untrusted.opened(path, ".mat file", (zlib.error, struct.error)) as file:
        return [variable.name for variable in _variables(file)]


def _variables(file: BinaryIO) -> Iterator[_Variable]:
    """Yields the variables; what the caller does not read of a variable's stream is skipped."""
    order, size = _byte_order(file.read(128)), size_of(file)
    start = 128
    for _ in range(_MAX_VARIABLES):
        if start == size:
            return
        file.seek(start)
        kind, length = TAG[order].unpack(file.read(8))  # struct.error where the file ends
        start += 8 + length
        if start > size:
            raise BrokenFileError("ends early")
        stream = (CompressedStream if kind == _COMPRESSED else Stream)(file, length, order)
        if kind == _COMPRESSED:
            kind, length, _ = stream.tag()
            stream.left = length
        if kind != _MATRIX:
            raise BrokenFileError(f"data of type {kind} where a variable was expected")
        if length:
            yield _variable(stream)
    raise BrokenFileError(f"more than {_MAX_VARIABLES:,} variables")


def _byte_order(header: bytes) -> str:
    if header[:4] == b"\x89HDF" or header[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
        raise BrokenFileError("of MATLAB 7.3, which is not supported; save it with -v7 instead")
    if header[124:128] == b"\x00\x01IM":
        return "<"
    if header[124:128] == b"\x01\x00MI":
        return ">"
    if len(header) >= 20 and 0 in header[:4]:
        raise BrokenFileError("no MATLAB file, or one of MATLAB 4, which is not supported; save it with -v7 instead")
    raise BrokenFileError("no MATLAB file (broken download?)")


def _variable(stream: Stream) -> _Variable:
    """Reads a variable's description, up to its data."""
    flags = stream.small((_UINT32, _UINT32), 8)
    if len(flags) != 8:
        raise BrokenFileError("a variable has no kind")
    word, _ = TAG[stream.order].unpack(flags)
    kind, shape, problem = word & 0xFF, (), ""
    if kind == _OPAQUE:
        return _Variable(_name(stream), kind, shape, _KINDS[kind], stream)
    sides = stream.small((_INT32, _UINT32), 4 * MAX_DIMENSIONS)
    if len(sides) % 4:
        raise BrokenFileError("truncated dimensions")
    shape = struct.unpack(f"{stream.order}{len(sides) // 4}i", sides)
    if kind not in _NUMERIC and kind != _CHAR:
        what = _KINDS.get(kind, "of an unknown kind")
        problem = f"{what}; only arrays of numbers and text are read"
    elif word & _COMPLEX:
        problem = "a complex array; only real ones are read"
    elif not shape:
        raise BrokenFileError("an array has no dimensions")
    return _Variable(_name(stream), kind, shape, problem, stream)


def _name(stream: Stream) -> str:
    return stream.small((_INT8, _UTF8), _MAX_NAME).decode("latin-1")


def _read_array(variable: _Variable, budget: int) -> np.ndarray:
    stream, shape = variable.stream, variable.shape
    kind, length, data = stream.tag()
    if variable.kind == _CHAR:
        data = stream.read(length) if data is None else data
        return _text(data, kind, shape, stream)
    if kind not in _NUMBERS:
        raise BrokenFileError(f"`{variable.name}`: numbers of an unknown type {kind}")
    dtype = np.dtype(stream.order + _NUMBERS[kind])
    needed = array_bytes(shape, dtype.itemsize)
    if needed != length:
        raise BrokenFileError(f"`{variable.name}`: {dtype} {list(shape)} takes {needed} bytes, the file has {length}")
    if needed > budget:
        raise BrokenFileError(f"`{variable.name}`: takes more memory than a file of this size may")
    flat = np.empty(needed, np.uint8)
    if data is None:
        stream.fill(memoryview(flat))
    else:
        flat[:] = np.frombuffer(data, np.uint8)
    stream.finish()
    return flat.view(dtype).reshape(shape, order="F")


def _text(data: bytes, kind: int, shape: tuple[int, ...], stream: Stream) -> np.ndarray:
    """Characters [..., n] -> strings [...]."""
    if kind not in _TEXT or len(data) > _MAX_TEXT:
        raise BrokenFileError("text in an unknown encoding, or too long")
    byte_order = "" if kind in (1, 2, 16) else "-le" if stream.order == "<" else "-be"
    text = data.decode(_TEXT[kind] + byte_order)
    array_bytes(shape, 4)
    count = int(np.prod(shape))
    if len(text) < count:
        raise BrokenFileError(f"{len(text)} characters where {list(shape)} were expected")
    stream.finish()
    letters = np.array(list(text[:count]), "U1").reshape(shape, order="F")
    if not count:
        return np.empty((*shape[:-1],), "U1") if shape[-1] == 0 else letters
    return check_values(np.ascontiguousarray(letters).view(f"U{shape[-1]}")[..., 0])
