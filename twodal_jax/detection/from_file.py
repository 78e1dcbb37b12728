"""Boxes and landmarks from a file: `--boxes=FILE` and `--landmarks=FILE`.

Boxes, CSV, one row a face:
  file, x1, y1, x2, y2[, roll]       a face detector's boxes, image pixels; roll in degrees clockwise. The crop box
                                     follows from them (`projection.roi_box_from_detection`).
  file, sx, sy, ex, ey[, roll]       with these names in the header: crop boxes, used unchanged.
Landmarks, CSV, one row a face:
  file, x0, y0, x1, y1, ...          68 points (iBUG), 21 (AFLW, UMDFaces) or the heatmap's 18, image pixels.
  file, face, x0, y0, z0, x1, ...    68 points, as in `landmarks.csv`.
Landmarks, .npz: `name` [N] and `landmarks` [N, 68, 21 or 18, 2 or 3].
Either, .json: a `faces.json`, or a list of them: its boxes with their roll, or its landmarks.

A header line is needed for crop boxes only. Empty, NaN or -1 coordinates of a box mean that the image has no face,
those of a landmark that it is unknown. A row names its image by the path, or as much of the path as is unique, with or
without the suffix.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from twodal_jax.detection import boxes
from twodal_jax.detection.types import FaceBox
from twodal_jax.geometry import heatmap
from twodal_jax.io import npy
from twodal_jax.io.images import IMAGE_SUFFIXES
from twodal_jax.io.untrusted import BrokenFileError

_POINTS = (68, 21, 18)
_OWN_ROW = 2 + 3 * 68  # columns of landmarks.csv
Rows = list[tuple[str, FaceBox | None]]


class GivenError(ValueError):
    """A file of boxes or landmarks cannot be used; the message names the file and what was expected."""


class GivenFaces:
    """The faces of each image, from a file.

    Args:
      rows: (name as in the file, face or None); several rows of one name are several faces.
    """

    def __init__(self, rows: Rows):
        self._faces: dict[tuple[str, ...], dict[str, list[FaceBox]]] = {}  # by name, then by suffix
        for name, face in rows:
            key, suffix = _key(name)
            self._faces.setdefault(key, {}).setdefault(suffix, []).extend([] if face is None else [face])
        self._by_last: dict[str, list[tuple[str, ...]]] = {}
        for key in self._faces:
            self._by_last.setdefault(key[-1], []).append(key)

    def find(self, path: os.PathLike | str) -> list[FaceBox] | None:
        """The faces of an image, or None if the file does not name it."""
        parts, suffix = _key(str(pathlib.Path(path).absolute()))
        for first in range(len(parts)):
            if parts[first:] in self._faces:
                return _of_suffix(self._faces[parts[first:]], suffix)
        same_name = self._by_last.get(parts[-1], [])  # in other folders; used if there is only one
        return _of_suffix(self._faces[same_name[0]], suffix) if len(same_name) == 1 else None


def read_boxes(path: os.PathLike | str) -> GivenFaces:
    """Reads a file of boxes (.csv or .json).

    Raises:
      GivenError: the file is missing or has other content.
    """
    path = _existing(path)
    if path.suffix.lower() == ".json":
        return GivenFaces(_read_json(path, _json_box))
    rows, header = _table(path)
    _check_columns(path, rows, (5, 6), "file, x1, y1, x2, y2[, roll]")
    is_crop_box = header[1:5] == ["sx", "sy", "ex", "ey"]
    return GivenFaces([(row[0], _box(_numbers(row[1:]), is_crop_box, f"{path}:{line}")) for line, row in rows])


def read_landmarks(path: os.PathLike | str) -> GivenFaces:
    """Reads a file of landmarks (.csv, .npz or .json).

    Raises:
      GivenError: the file is missing or has other content.
    """
    path = _existing(path)
    if path.suffix.lower() == ".json":
        return GivenFaces(_read_json(path, _json_landmarks))
    if path.suffix.lower() == ".npz":
        try:
            names, points = npy.read_landmarks(path, _POINTS)
        except BrokenFileError as error:
            raise GivenError(str(error)) from None
        return GivenFaces([(name, _landmarks(face)) for name, face in zip(names, points)])
    rows, _ = _table(path)
    sizes = (*(1 + 2 * count for count in _POINTS), _OWN_ROW)
    _check_columns(path, rows, sizes, "file, x0, y0, ... of 68, 21 or 18 points")
    faces = []
    for _, row in rows:
        values = _numbers(row[2:] if len(row) == _OWN_ROW else row[1:])
        faces.append((row[0], _landmarks(values.reshape(-1, 3 if len(row) == _OWN_ROW else 2))))
    return GivenFaces(faces)


def _key(name: str) -> tuple[tuple[str, ...], str]:
    """The parts of a name without an image's suffix, and that suffix or ""."""
    path = pathlib.PurePosixPath(name.strip().replace("\\", "/"))
    suffix = path.suffix.lower() if path.suffix.lower() in (*IMAGE_SUFFIXES, ".mat") else ""
    path = path.with_suffix("") if suffix else path
    return tuple(part for part in path.parts if part != ".") or ("",), suffix


def _of_suffix(faces: dict[str, list[FaceBox]], suffix: str) -> list[FaceBox] | None:
    """The faces with this suffix, or of a name without one; else those of the only suffix."""
    only = next(iter(faces.values())) if len(faces) == 1 else None
    return faces.get(suffix, faces.get("", only))


def _existing(path: os.PathLike | str) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_file():
        raise GivenError(f"{path}: no such file")
    return path


def _numbers(cells: Sequence[str]) -> np.ndarray:
    """Floats; NaN for anything else."""
    values = np.full(len(cells), np.nan, np.float32)
    for i, cell in enumerate(cells):
        try:
            values[i] = float(cell)
        except ValueError:
            pass
    return values


def _table(path: pathlib.Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Rows (line number, cells) of a CSV, and its header's cells in lower case ([] without one)."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [(line, row) for line, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise GivenError(f"{path}: not a readable table ({error})") from None
    if not rows:
        raise GivenError(f"{path}: is empty, expected one row a face")
    first = [cell.strip() for cell in rows[0][1][1:]]
    filled = [cell for cell in first if cell and cell.lower() != "nan"]
    if filled and np.isnan(_numbers(filled)).all():
        return rows[1:], [cell.strip().lower() for cell in rows[0][1]]
    return rows, []


def _check_columns(path: pathlib.Path, rows, counts: Sequence[int], expected: str) -> None:
    for line, row in rows:
        if len(row) not in counts:
            raise GivenError(f"{path}:{line}: {len(row)} columns, expected {expected}")


def _box(values: np.ndarray, is_crop_box: bool, where: str) -> FaceBox | None:
    """Detection from x1, y1, x2, y2[, roll]; None without coordinates."""
    corners = values[:4]
    if not np.isfinite(corners).all() or (corners == -1).all():
        return None
    if (corners[2:] <= corners[:2]).any():
        raise GivenError(
            f"{where}: x2 and y2 must be larger than x1 and y1, got {corners.tolist()}"
            " (corners, not a width and height)"
        )
    roll = float(values[4]) if len(values) > 4 and np.isfinite(values[4]) else 0.0
    return FaceBox(corners, roll) if is_crop_box else boxes.from_detection(corners, roll)


def _landmarks(points: np.ndarray) -> FaceBox | None:
    """Detection from 68, 21 or 18 landmarks [P, 2 or 3], NaN or -1 where unknown; None if too few are known."""
    points = points[:, :2].astype(np.float32)
    known = np.isfinite(points).all(axis=-1) & (points != -1).any(axis=-1)
    points = np.where(known[:, None], points, np.nan)
    if len(points) == 68 and known.all():
        return boxes.from_landmarks68(points)
    all_points = points if len(points) == 68 else None
    if len(points) == 68:
        points = np.asarray(heatmap.landmarks_18_from_68(points))
    elif len(points) == 21:
        points = np.asarray(heatmap.landmarks_18_from_21(points))
    try:
        found = boxes.from_landmarks18(points, np.isfinite(points).all(axis=-1))
        return dataclasses.replace(found, landmarks68=all_points)
    except ValueError:
        return None


def _read_json(path: pathlib.Path, face_of) -> Rows:
    """Rows from a faces.json, or from a list of them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures = content if isinstance(content, list) else [content]
        rows: Rows = [(str(picture["file"]), None) for picture in pictures]
        rows += [(str(picture["file"]), face_of(face)) for picture in pictures for face in picture["faces"]]
        return rows
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        reason = repr(error)[:200]
        raise GivenError(f"{path}: not a faces.json, an object with `file` and `faces` ({reason})") from None


def _json_box(face: dict) -> FaceBox:
    return FaceBox(np.array(face["box"], np.float32).reshape(4), float((face.get("pose") or {}).get("roll") or 0.0))


def _json_landmarks(face: dict) -> FaceBox | None:
    points = np.array(face["landmarks68"], np.float32)
    return _landmarks(points.reshape(68, -1))
