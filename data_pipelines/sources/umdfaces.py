"""UMDFaces: batches of images with a CSV each -> wild faces.

`umdfaces_batch{1,2,3}/umdfaces_batch{n}_ultraface.csv` has one header line and is read by column
name: FILE (relative to the batch folder), FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT, YAW, and
P1X, P1Y, VIS1 ... P21X, P21Y, VIS21 in AFLW's order of 21 points, whole-image pixels.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines.sources import detected_faces, safe_paths
from data_pipelines.sources.base import SourceError, to_18_landmarks, with_jaw
from data_pipelines.sources.csv_table import broken_lines, column_slices, Rows
from data_pipelines.sources.detected_faces import DetectedFaces
from data_pipelines.sources.landmark_faces import LandmarkFaces
from data_pipelines.sources.wild_csv import checked_folder, roi_boxes_of_68, valid_points
from twodal_jax.geometry import projection

NUM_POINTS = 21
VISIBLE_ABOVE = 0.5  # VIS is a float, about 0 for hidden and about 1 for visible points
BOX_COLUMNS = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT", "YAW")
POINT_COLUMNS = tuple(name for k in range(1, NUM_POINTS + 1) for name in (f"P{k}X", f"P{k}Y", f"VIS{k}"))


def umdfaces(
    folder: os.PathLike | str,
    *,
    margin: int = 20,
    detections: os.PathLike | str | None = None,
    detect: str | None = None,
    make_detector: Callable[[], Any] = detected_faces.face_alignment_detector,
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
      make_detector: of `detect`.

    Raises:
      SourceError: no folder, no CSV, or missing columns (named, with those found).
    """
    folder = checked_folder(folder)
    names, keys, problems = [], [], {}
    box, landmarks, seen = Rows(len(BOX_COLUMNS)), Rows(NUM_POINTS, 2), Rows(NUM_POINTS)
    for path in _find_tables(folder):
        for files, numbers, broken in column_slices(path, "FILE", [*BOX_COLUMNS, *POINT_COLUMNS]):
            inside, refused = safe_paths.listed(files, functools.partial(_name, path.parent, folder))
            some = [name or file for name, file in zip(inside, files)]
            problems |= {len(names) + row: problem for row, problem in (refused | broken_lines(broken)).items()}
            names += some
            keys += zip(some, files) if detections else []
            for rows, found in zip((box, landmarks, seen), _fields(numbers)):
                rows.extend(found)
    box, landmarks, seen = (rows.array() for rows in (box, landmarks, seen))
    roi_boxes, description = _roi_boxes(box), f"umdfaces:{folder.name}"
    if detections:
        points, missing = detected_faces.landmarks_of_file(detections, keys, roi_boxes)
        problems, visible = missing | problems, np.isfinite(points).all(axis=-1)
        roi_boxes, description = roi_boxes_of_68(points, visible), f"{description}:{pathlib.Path(detections).name}"
        landmarks, seen = to_18_landmarks(points, visible)
    table = dict(
        names=names,
        paths=None,
        landmarks=landmarks,
        visible=seen,
        yaw_deg=box[:, 4],
        roi_boxes=roi_boxes,
        ready=False,
        margin=margin,
        problems=problems,
        root=folder,
    )
    if detect:
        return DetectedFaces(make_detector, detect, description=f"{description}:{detect}", **table)
    return LandmarkFaces(description=description, **table)


def _fields(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of BOX_COLUMNS and POINT_COLUMNS -> boxes [n, 5], landmarks [n, 21, 2] and their visibility [n, 21]."""
    points = numbers[:, len(BOX_COLUMNS) :].reshape(-1, NUM_POINTS, 3)
    visible = valid_points(points[..., :2]) & (points[..., 2] > VISIBLE_ABOVE)
    return numbers[:, : len(BOX_COLUMNS)], *with_jaw(points[..., :2], visible)


def _find_tables(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(folder.glob("*ultraface.csv")) or sorted(folder.glob("*/*ultraface.csv"))
    if not found:
        raise SourceError(
            f"{folder}: no umdfaces_batch*_ultraface.csv in it or one folder below;"
            " give the folder that holds umdfaces_batch1, umdfaces_batch2, ..."
        )
    return found


def _name(batch: pathlib.Path, root: pathlib.Path, file: str) -> str:
    """A file of a batch as seen from the root. Raises SkipFace where it would lead out of the batch."""
    return safe_paths.joined(batch, file).relative_to(root).as_posix()


def _roi_boxes(box: np.ndarray) -> np.ndarray:
    """FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT [N, >= 4] -> crop boxes [N, 4], NaN without a box."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(box[:, :4]).all(axis=1) & (box[:, 2:4] > 0).all(axis=1)
    corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:4]], axis=1)
    return np.where(good[:, None], np.asarray(projection.roi_box_from_detection(corners)), np.nan)
