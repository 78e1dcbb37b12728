"""Reader of third-party .npy and .npz files: plain numbers and text, within the memory that the file's size allows.

`numpy.load` allocates what a header claims before it checks the data, and parses the header as Python. Here the header
must match its one form, its shape must need exactly the bytes that follow, and compressed data may grow to
`untrusted.memory_budget` at most.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from twodal_jax.io import untrusted
from twodal_jax.io.untrusted import array_bytes, BrokenFileError, check_values, memory_budget, size_of

ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    AttributeError,
)
MAX_DIRECTORY = 2**22
_KIND_NPY, _KIND_NPZ = ".npy file of numbers", ".npz of plain arrays"
_MAX_HEADER = 10_000
_ENTRY = re.compile(
    r"""(["'])(?P<key>descr|fortran_order|shape)\1:"""
    r"""(?P<value>(["'])[^"']{1,20}\4|True|False|\((?:\d{1,19}L?(?:,\d{1,19}L?){0,32},?)?\))(?:,|$)"""
)
_DTYPE = re.compile(r"[<>|=]?(?:\?|b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6})")
_BLOCK = 2**20


class Header(NamedTuple):
    """The header of a .npy file: shape, element type, Fortran order, and bytes of the data."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    nbytes: int


def read_npy(path: os.PathLike | str) -> np.ndarray:
    """Reads the array of a .npy file.

    Raises:
      BrokenFileError: the file is missing, damaged, or not an array of numbers or text; the message names it.
    """
    with untrusted.opened(path, _KIND_NPY) as file:
        return _read_array(file, size_of(file))


def read_npz(path: os.PathLike | str, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz file, or those of `names` that it has.

    Raises:
      BrokenFileError: as `read_npy`.
    """
    with untrusted.opened(path, _KIND_NPZ, ZIP_DAMAGE) as file, open_zip(file) as archive:
        wanted = {name: info for name, info in _members(archive).items() if names is None or name in names}
        if sum(info.file_size for info in wanted.values()) > memory_budget(size_of(file)):
            raise BrokenFileError("unpacks to more memory than a file of this size may take")
        arrays = {}
        for name, info in wanted.items():
            with open_member(archive, info) as member:
                arrays[name] = _read_array(member, info.file_size)
        return arrays


def npz_names(path: os.PathLike | str) -> list[str]:
    """Names of the arrays of a .npz file. Raises BrokenFileError as `read_npy`."""
    with untrusted.opened(path, _KIND_NPZ, ZIP_DAMAGE) as file, open_zip(file) as archive:
        return list(_members(archive))


def read_landmarks(path: os.PathLike | str, counts: Collection[int]) -> tuple[list[str], np.ndarray]:
    """Reads the names and landmarks [N, P, 2] of a .npz file with `name` [N] and `landmarks` [N, P, 2 or more].

    Raises:
      BrokenFileError: as `read_npy`; an array is missing, of another shape, or P is not in `counts`.
    """
    arrays = read_npz(path, ("name", "landmarks"))
    if len(arrays) < 2:
        raise BrokenFileError(f"{path}: needs `name` and `landmarks`, has {', '.join(npz_names(path))}")
    names, landmarks = [str(name) for name in np.ravel(arrays["name"])], arrays["landmarks"]
    is_numeric = landmarks.dtype.kind in "fiu" and landmarks.ndim == 3 and landmarks.shape[2] >= 2
    if not is_numeric or len(landmarks) != len(names) or landmarks.shape[1] not in counts:
        known = " or ".join(map(str, counts))
        raise BrokenFileError(
            f"{path}: `landmarks` is {landmarks.dtype} {list(landmarks.shape)}, expected [{len(names)}, {known}, 2]"
        )
    return names, landmarks[..., :2]


@contextlib.contextmanager
def open_array(path: os.PathLike | str, name: str) -> Iterator[tuple[Header, BinaryIO]]:
    """Opens one array of a .npz file for reading in pieces: its header, and the stream after it.

    Raises:
      BrokenFileError: as `read_npy`; also while the stream is read.
    """
    with untrusted.opened(path, _KIND_NPZ, ZIP_DAMAGE) as file, open_zip(file) as archive:
        members = _members(archive)
        if name not in members:
            raise BrokenFileError(f"has no array `{name}`")
        with open_member(archive, members[name]) as member:
            yield read_header(member, members[name].file_size), member


def read_header(stream: BinaryIO, size: int) -> Header:
    """Reads the header of a .npy stream of `size` bytes; the data must be exactly the rest."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise BrokenFileError("no .npy data")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _MAX_HEADER:
        raise BrokenFileError(f"a header of {length} bytes")
    text = stream.read(length)
    if len(text) < length:
        raise BrokenFileError("ends within its header")
    shape, dtype, fortran = _parse(text.decode("latin-1"))
    nbytes = array_bytes(shape, dtype.itemsize)
    available = size - 8 - width - length
    if nbytes != available:
        raise BrokenFileError(f"{dtype} {list(shape)} takes {nbytes} bytes, the file has {available}")
    return Header(shape, dtype, fortran, nbytes)


def _parse(text: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    text = "".join(text.split())
    if text[:1] != "{" or text[-1:] != "}":
        raise BrokenFileError("a header of another form")
    rest, found = text[1:-1], {}
    while rest:
        entry = _ENTRY.match(rest)
        if entry is None or entry["key"] in found:
            if "descr" in rest and "[(" in rest:
                raise BrokenFileError("records; only plain arrays of numbers and text are read")
            raise BrokenFileError("a header of another form")
        found[entry["key"]], rest = entry["value"], rest[entry.end() :]
    code = found.get("descr", "")[1:-1]
    if not _DTYPE.fullmatch(code):
        raise BrokenFileError(f"elements of type {code!r} (objects?); only plain arrays of numbers and text are read")
    if len(found) != 3 or found["fortran_order"] not in ("True", "False") or found["shape"][0] != "(":
        raise BrokenFileError("a header of another form")
    shape = tuple(int(number) for number in re.findall(r"\d+", found["shape"]))
    return shape, np.dtype(code), found["fortran_order"] == "True"


def _read_array(stream: BinaryIO, size: int) -> np.ndarray:
    header = read_header(stream, size)
    data = np.empty(header.nbytes, np.uint8)
    read_into(stream, memoryview(data))
    array = data.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
    return check_values(array)


def read_into(stream: BinaryIO, target: memoryview) -> None:
    """Fills `target` (bytes) from a stream, block by block; BrokenFileError if it is longer or shorter."""
    at = 0
    while at < len(target):
        block = stream.read(min(_BLOCK, len(target) - at))
        if not block:
            raise BrokenFileError("ends early")
        target[at : at + len(block)] = block
        at += len(block)
    if stream.read(1):  # also makes zipfile check the checksum
        raise BrokenFileError("is longer than it says")


class _SmallReads:
    """A file for `zipfile` that refuses to read a huge table of contents at once.

    `opening` is true while `zipfile` reads the table; members are read block by block.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.opening = file, True
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self.opening and size > MAX_DIRECTORY:
            raise BrokenFileError("a table of contents of more than 4 MB")
        return self._file.read(MAX_DIRECTORY if size < 0 else size)

    def seekable(self) -> bool:
        return True


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Opens a zip whose table of contents takes at most `MAX_DIRECTORY` bytes."""
    reads = _SmallReads(file)
    archive = zipfile.ZipFile(reads)
    reads.opening = False
    return archive


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    """Opens a stored or deflated member; other methods could take any amount of memory."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BrokenFileError(f"packed by an unknown method ({info.compress_type})")
    return archive.open(info)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """{name without .npy: member}."""
    return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
