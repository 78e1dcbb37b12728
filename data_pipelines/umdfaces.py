"""UMDFaces: batches of images with a CSV each -> wild faces.

`umdfaces_batch{1,2,3}/umdfaces_batch{n}_ultraface.csv` has one header line and is read by column
name: FILE (relative to the batch folder), FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT, YAW, and
P1X, P1Y, VIS1 ... P21X, P21Y, VIS21 in AFLW's order of 21 points, whole-image pixels.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import detected_faces, safe_paths
from data_pipelines.detected_faces import DetectedFaces
from data_pipelines.faces import SourceError, as_18, with_jaw
from data_pipelines.landmark_faces import LandmarkFaces
from data_pipelines.tables import broken_lines, read_columns
from data_pipelines.wild import checked_folder, roi_boxes_of_68, valid_points
from twodal_jax import projection

NUM_POINTS = 21
VISIBLE_ABOVE = 0.5  # VIS is a float, about 0 for hidden and about 1 for visible points
SLICE = 4096
BOX_COLUMNS = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT", "YAW")


def umdfaces(
    folder: os.PathLike | str, *, margin: int = 20, detections: os.PathLike | str | None = None,
    detect: str | None = None, make_finder: Callable[[], Any] = detected_faces.face_alignment_finder,
) -> LandmarkFaces:
    """A folder with UMDFaces batches, or one batch folder -> source of wild faces.

    By default the landmarks are the table's own 21, and the crop is placed by the face box
    (`projection.roi_box_from_detection`), or by the landmarks where the box is empty. `yaw_deg` is YAW as it
    stands in the file.

    Args:
      detections: a file of 68-point detections in whole-image pixels (`detections.py`), by the names of the
        table; its points are used instead, and place the crop. Several lines of one image are told apart by the
        face box.
      detect: one of `detected_faces.DETECTORS`: finds the 68 points while the faces are prepared.
      make_finder: of `detect`.

    Raises:
      SourceError: no folder, no CSV, or missing columns (named, with those found).
    """
    folder = checked_folder(folder)
    names, keys, paths, problems, parts = [], [], [], {}, []
    for path in _find_tables(folder):
        table = _read_batch(path, folder)
        problems.update({len(names) + row: problem for row, problem in table.problems.items()})
        names, paths = names + table.names, paths + table.paths
        keys += table.keys if detections else []
        parts += _small_parts(table.numbers)
    box, landmarks, seen = (np.concatenate(part) for part in zip(*parts))
    roi_boxes, description = _roi_boxes(box), f"umdfaces:{folder.name}"
    if detections:
        points, missing = detected_faces.landmarks_of_file(detections, keys, roi_boxes)
        problems, visible = missing | problems, np.isfinite(points).all(axis=-1)
        roi_boxes, description = roi_boxes_of_68(points, visible), f"{description}:{pathlib.Path(detections).name}"
        landmarks, seen = as_18(points, visible)
    table = dict(
        names=names, paths=paths, landmarks=landmarks, visible=seen, yaw_deg=box[:, 4], roi_boxes=roi_boxes,
        ready=False, margin=margin, problems=problems, root=folder)
    if detect:
        return DetectedFaces(make_finder, detect, description=f"{description}:{detect}", **table)
    return LandmarkFaces(description=description, **table)


def _small_parts(numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of BOX_COLUMNS and 21 points -> boxes [n, 5], landmarks [n, 21, 2] and their visibility, some thousand
    rows at a time: what is needed on the way is several times larger than the table."""
    for start in range(0, len(numbers), SLICE):
        rows = numbers[start : start + SLICE]
        points = rows[:, len(BOX_COLUMNS):].reshape(-1, NUM_POINTS, 3)
        visible = valid_points(points[..., :2]) & (points[..., 2] > VISIBLE_ABOVE)
        yield rows[:, : len(BOX_COLUMNS)].copy(), *with_jaw(points[..., :2], visible)


def _find_tables(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(folder.glob("*ultraface.csv")) or sorted(folder.glob("*/*ultraface.csv"))
    if not found:
        raise SourceError(f"{folder}: no umdfaces_batch*_ultraface.csv in it or one folder below;"
                          " give the folder that holds umdfaces_batch1, umdfaces_batch2, ...")
    return found


class _Table(NamedTuple):
    names: list[str]
    keys: list[tuple[str, str]]  # the names relative to the folder, and to the batch
    paths: list[str | None]
    numbers: np.ndarray
    problems: dict[int, safe_paths.Problem]


def _read_batch(path: pathlib.Path, root: pathlib.Path) -> _Table:
    columns = [f"{kind}{k}{axis}" if axis else f"{kind}{k}" for k in range(1, NUM_POINTS + 1)
               for kind, axis in (("P", "X"), ("P", "Y"), ("VIS", ""))]
    files, numbers, problems = read_columns(path, "FILE", [*BOX_COLUMNS, *columns])
    paths, refused = safe_paths.listed(files, lambda file: str(safe_paths.joined(path.parent, file)))
    names = [pathlib.Path(image).relative_to(root).as_posix() if image else file
             for image, file in zip(paths, files)]
    return _Table(names, list(zip(names, files)), paths, numbers, refused | broken_lines(problems))


def _roi_boxes(box: np.ndarray) -> np.ndarray:
    """FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT [N, >= 4] -> crop boxes [N, 4], NaN without a box."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(box[:, :4]).all(axis=1) & (box[:, 2:4] > 0).all(axis=1)
    corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:4]], axis=1)
    return np.where(good[:, None], np.asarray(projection.roi_box_from_detection(corners)), np.nan)
