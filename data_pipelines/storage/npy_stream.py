"""`.npy` files written and read in pieces: memory stays flat whatever their size.

A memory map would do, but the pages it touches count as the process's memory until the system wants them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_CHUNK_BYTES = 1 << 23


class NpyAppender:
    """A `.npy` that grows row by row; `close` writes the number of rows into its header.

    Args:
      path: the file. shape: of one row. dtype: of the rows.
    """

    def __init__(self, path: os.PathLike | str, shape: tuple[int, ...], dtype: Any):
        self._shape, self._dtype, self._count = tuple(shape), np.dtype(dtype), 0
        self._file = open(path, "wb")
        self._start = self._write_header(0)

    def append(self, row: np.ndarray) -> None:
        """Adds one row. Raises ValueError if its shape or dtype is another one."""
        if row.shape != self._shape or row.dtype != self._dtype:
            raise ValueError(f"a row is {row.dtype} {list(row.shape)}, expected {self._dtype} {list(self._shape)}")
        self._file.write(np.ascontiguousarray(row).data)
        self._count += 1

    def close(self) -> None:
        """Completes the file."""
        self._file.seek(0)
        if self._write_header(self._count) != self._start:  # NumPy leaves room for the first axis to grow
            raise ValueError("the header of the .npy changed its length")
        self._file.close()

    def _write_header(self, count: int) -> int:
        _write_header(self._file, (count, *self._shape), self._dtype)
        return self._file.tell()


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )


def write(path: os.PathLike | str, shape: tuple, dtype: Any, parts: Iterable[np.ndarray]) -> None:
    """Arrays `parts`, concatenated along axis 0, -> one `.npy` of a known shape, a few megabytes at a time."""
    dtype = np.dtype(dtype)
    with open(path, "wb") as file:
        _write_header(file, tuple(shape), dtype)
        for part in parts:
            step = max(1, _CHUNK_BYTES // max(1, part[:1].nbytes))
            for start in range(0, len(part), step):
                file.write(np.ascontiguousarray(part[start : start + step], dtype).data)


def read_in_pieces(path: pathlib.Path) -> Iterator[np.ndarray]:
    """The rows of a `.npy` that this program wrote, a few megabytes at a time."""
    with open(path, "rb") as file:
        shape, dtype = header(file)
        row = int(np.prod(shape[1:], dtype=np.int64))
        step = max(1, _CHUNK_BYTES // max(1, row * dtype.itemsize))
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            yield np.fromfile(file, dtype, count * row).reshape(count, *shape[1:])


def header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an open `.npy`, which is left at its first row."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
