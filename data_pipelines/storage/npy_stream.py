"""`.npy` files written and read in pieces, so that memory use does not depend on their size.

A memory map would not do: the pages it touches count as memory of the process until the system reclaims them.
"""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_CHUNK_BYTES = 1 << 23


class NpyAppender:
    """A `.npy` file that grows row by row; `close` writes the number of rows into its header.

    Args:
      path: the file.
      shape: shape of one row.
      dtype: dtype of the rows.
    """

    def __init__(self, path: os.PathLike | str, shape: tuple[int, ...], dtype: Any):
        self._shape, self._dtype, self._count = tuple(shape), np.dtype(dtype), 0
        self._file = open(path, "wb")
        self._start = self._write_header(0)

    def append(self, row: np.ndarray) -> None:
        """Appends a row. Raises ValueError if its shape or dtype differs from the file's."""
        if row.shape != self._shape or row.dtype != self._dtype:
            raise ValueError(f"a row is {row.dtype} {list(row.shape)}, expected {self._dtype} {list(self._shape)}")
        self._file.write(np.ascontiguousarray(row).data)
        self._count += 1

    def close(self) -> None:
        """Completes the header and closes the file."""
        self._file.seek(0)
        if self._write_header(self._count) != self._start:  # NumPy reserves room for the first axis to grow
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
    """Writes arrays, concatenated along axis 0, as one `.npy` of known shape, a few megabytes at a time."""
    dtype = np.dtype(dtype)
    with open(path, "wb") as file:
        _write_header(file, tuple(shape), dtype)
        for part in parts:
            step = max(1, _CHUNK_BYTES // max(1, part[:1].nbytes))
            for start in range(0, len(part), step):
                file.write(np.ascontiguousarray(part[start : start + step], dtype).data)


def read_in_pieces(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Rows of a `.npy` written by this program, a few megabytes at a time."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        row = int(np.prod(shape[1:], dtype=np.int64))
        step = max(1, _CHUNK_BYTES // max(1, row * dtype.itemsize))
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            yield np.fromfile(file, dtype, count * row).reshape(count, *shape[1:])
