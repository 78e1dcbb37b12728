"""Files of detected 68-point landmarks.

A detections file is a CSV of `file, x0, y0, ..., x67, y67`, with or without a header line, or an .npz with `name` [N]
and `landmarks` [N, 68, 2]. An image without a detection has no line, or empty, NaN or -1 coordinates.
"""

import array
import os
import pathlib

import numpy as np

from data_pipelines.sources.base import SourceError
from twodal_jax.io import npy
from twodal_jax.io.images import IMAGE_SUFFIXES
from twodal_jax.io.text import csv_lines
from twodal_jax.io.untrusted import BrokenFileError

NUM_POINTS = 68
_CSV_FORM = "file, x0, y0, ..., x67, y67"


def stem(name: str) -> str:
    """Key that faces are matched by: the name without its last suffix, with forward slashes."""
    path = pathlib.PurePosixPath(name.strip().replace("\\", "/"))
    known = path.suffix.lower() in (*IMAGE_SUFFIXES, ".mat")
    return str(path.with_suffix("")) if known else str(path)


def read_detections(path: os.PathLike | str) -> tuple[list[str], np.ndarray]:
    """Reads a detections file.

    Returns:
      names as written in the file, and landmarks float32 [N, 68, 2] in the file's pixels; NaN where there is no
      detection or the line is broken.

    Raises:
      SourceError: the file is missing, unreadable or has other columns.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise SourceError(f"{path}: no such detections file (.csv or .npz with 68 points a face)")
    try:
        names, landmarks = npy.read_landmarks(path, [NUM_POINTS]) if path.suffix == ".npz" else _read_csv(path)
    except BrokenFileError as error:
        raise SourceError(str(error)) from None
    landmarks = np.where(np.isfinite(landmarks) & (landmarks != -1), landmarks, np.nan)
    missing = np.isnan(landmarks).any(axis=-1, keepdims=True)
    return names, np.where(missing, np.nan, landmarks).astype(np.float32)


def landmarks_by_name(path: os.PathLike | str | None, names: list[str]) -> np.ndarray:
    """Landmarks [len(names), 68, 2] of faces by `stem`, NaN without a detection; all NaN if `path` is None."""
    result = np.full((len(names), NUM_POINTS, 2), np.nan, np.float32)
    if path is not None:
        by_stem = detections_by_stem(path)
        for row, name in enumerate(names):
            result[row] = by_stem.get(name, np.nan)
    return result


def detections_by_stem(path: os.PathLike | str) -> dict[str, np.ndarray]:
    """{name without suffix: landmarks [68, 2]} of a detections file; see `read_detections`."""
    names, landmarks = read_detections(path)
    return {stem(name): points for name, points in zip(names, landmarks)}


def _read_csv(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    width, columns = 1 + 2 * NUM_POINTS, None
    names, numbers = [], array.array("f")  # four bytes a number: such a file may have half a million lines
    complete, empty = 0, True
    for _, row, broken in csv_lines(path):
        first, empty = empty, False
        if first and _is_header(row):
            continue
        row = [""] if broken else row
        columns = columns or len(row)
        complete += len(row) == width
        names.append(row[0].strip())
        numbers.extend(map(_number, row[1:]) if len(row) == width else [np.nan] * (width - 1))
    if empty:
        raise SourceError(f"{path}: is empty; expected lines of {_CSV_FORM}")
    if names and not complete:
        raise SourceError(f"{path}: lines have {columns} columns, expected {width}: {_CSV_FORM}")
    return names, np.array(numbers, np.float32).reshape(-1, NUM_POINTS, 2)


def _is_header(row: list[str]) -> bool:
    cells = [cell for cell in row[1:] if cell.strip()]
    return bool(cells) and all(np.isnan(_number(cell)) and cell.strip().lower() != "nan" for cell in cells)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
