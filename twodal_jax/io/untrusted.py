"""What every reader of files from outside shares: one error, and limits of memory.

A file may ask for memory in proportion to its size only, whatever it claims; lengths and shapes are checked
against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_MEMORY, _TIMES_ITS_SIZE = 256 * 2**20, 4
MAX_DIMENSIONS, MAX_SIDE = 32, 2**40
_LAST_CHARACTER, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)


class BrokenFileError(ValueError):
    """A file is missing, damaged, of another form than expected, or larger inside than it may be."""


def memory_budget(size: int) -> int:
    """How many bytes the content of a file of `size` bytes may take."""
    return max(_MEMORY, _TIMES_ITS_SIZE * size)


@contextlib.contextmanager
def opened(path: os.PathLike | str, kind: str, damage: tuple[type[Exception], ...] = ()) -> Iterator[BinaryIO]:
    """Opens a file for reading; what goes wrong inside becomes a BrokenFileError that names the file.

    Args:
      kind: for the message, such as ".mat file".
      damage: errors besides ValueError and OSError that a broken file may cause.
    """
    path = pathlib.Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait, a device never ends
            raise BrokenFileError("not a regular file")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise BrokenFileError(f"{path}: not a readable {kind} ({error.strerror or error})") from None
    except (ValueError, MemoryError, *damage) as error:
        reason = str(error) or type(error).__name__
        raise BrokenFileError(f"{path}: not a readable {kind} ({reason[:300]})") from None


def size_of(file: BinaryIO) -> int:
    """Bytes of an opened file."""
    return os.fstat(file.fileno()).st_size


def array_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that an array takes.

    Raises:
      BrokenFileError: no array can have this shape (also an empty one: NumPy multiplies the other sides).
    """
    possible = len(shape) <= MAX_DIMENSIONS and all(type(side) is int and 0 <= side < MAX_SIDE for side in shape)
    if not possible or itemsize <= 0 or math.prod(side or 1 for side in shape) * itemsize >= 2**62:
        raise BrokenFileError("an impossible array shape")
    return math.prod(shape) * itemsize


def check_values(array: np.ndarray) -> np.ndarray:
    """Returns `array` if its truth values and characters are such.

    NumPy trusts the bytes: it counts a truth value of 255 otherwise than it copies it, and makes strings of
    numbers that are no characters.
    """
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise BrokenFileError("truth values that are neither true nor false")
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
        surrogate = (codes >= _SURROGATES[0]) & (codes <= _SURROGATES[1])
        if codes.max() > _LAST_CHARACTER or surrogate.any():
            raise BrokenFileError("text with numbers that are no characters")
    return array
