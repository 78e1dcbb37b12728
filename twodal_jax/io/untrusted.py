"""The error and the memory limits that all readers of untrusted files share.

A file may use memory in proportion to its size only, whatever it claims: lengths and shapes are checked against the
bytes of the file before anything is allocated.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

_MEMORY, _TIMES_ITS_SIZE = 256 * 2**20, 4
MAX_DIMENSIONS, MAX_SIDE = 32, 2**40
_LAST_CHARACTER, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)


class BrokenFileError(ValueError):
    """A file is missing, damaged, of another form than expected, or unpacks to too much memory."""


def memory_budget(size: int) -> int:
    """Bytes that the content of a file of `size` bytes may take."""
    return max(_MEMORY, _TIMES_ITS_SIZE * size)


@contextlib.contextmanager
def opened(path: os.PathLike | str, kind: str, damage: tuple[type[Exception], ...] = ()) -> Iterator[BinaryIO]:
    """Opens a regular file for reading; errors inside the block become a BrokenFileError that names the file.

    Args:
      path: the file.
      kind: for the message, such as ".mat file".
      damage: errors besides ValueError and OSError that a damaged file may cause.
    """
    path = pathlib.Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block on opening, a device never ends
            raise BrokenFileError("not a regular file")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise BrokenFileError(f"{path}: not a readable {kind} ({error.strerror or error})") from None
    except (ValueError, MemoryError, *damage) as error:
        reason = str(error) or type(error).__name__
        raise BrokenFileError(f"{path}: not a readable {kind} ({reason[:300]})") from None


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def array_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that an array takes.

    Raises:
      BrokenFileError: no array can have this shape, not even an empty one (NumPy multiplies the other sides).
    """
    possible = len(shape) <= MAX_DIMENSIONS and all(type(side) is int and 0 <= side < MAX_SIDE for side in shape)
    if not possible or itemsize <= 0 or math.prod(side or 1 for side in shape) * itemsize >= 2**62:
        raise BrokenFileError("an impossible array shape")
    return math.prod(shape) * itemsize


def check_values(array: np.ndarray) -> np.ndarray:
    """Returns `array` if its booleans and characters are valid.

    NumPy trusts the bytes: a boolean of 255 counts as another number than a copy of it, and strings may hold numbers
    that are not characters.
    """
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise BrokenFileError("booleans that are neither true nor false")
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
        surrogate = (codes >= _SURROGATES[0]) & (codes <= _SURROGATES[1])
        if codes.max() > _LAST_CHARACTER or surrogate.any():
            raise BrokenFileError("text with numbers that are not characters")
    return array


def is_of_mac(parts: Sequence[str]) -> bool:
    """Whether macOS added a file to a copy or an archive: ._NAME, or anything in __MACOSX."""
    return parts[-1].startswith("._") or "__MACOSX" in parts
