"""UMDFaces: batches of images with a CSV each -> wild faces.

`umdfaces_batch{1,2,3}/umdfaces_batch{n}_ultraface.csv` has one header line and is read by column name: FILE (relative
to the batch folder), FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT, YAW, and P1X, P1Y, VIS1 ... P21X, P21Y, VIS21 in AFLW's
order of 21 points. Coordinates are pixels of the whole image.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines.sources import detected_faces, safe_paths
from data_pipelines.sources.base import mac_notes, SourceError, to_18_landmarks, with_jaw, without_mac_files
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
    """Source of wild faces: a folder of UMDFaces batches, or one batch folder.

    By default the landmarks are the table's 21. The crop is placed by the face box
    (`projection.roi_box_from_detection`), or by the landmarks where the box is empty. `yaw_deg` is the file's YAW.

    Args:
      folder: the folder.
      margin: pixels stored around the 120-pixel crop.
      detections: a file of 68-point detections in whole-image pixels (`sources.detections`), with the table's names.
        Its points replace the table's and place the crop. The face box chooses among several lines of one image.
      detect: one of `detected_faces.DETECTORS`, which detects the 68 points during preparation.
      make_detector: makes the detector of `detect`.

    Raises:
      SourceError: the folder, the CSV or columns are missing.
    """
    folder = checked_folder(folder)
    names, keys, problems = [], [], {}
    columns = Rows(len(BOX_COLUMNS)), Rows(NUM_POINTS, 2), Rows(NUM_POINTS)
    for path in _find_tables(folder):
        for files, numbers, broken in column_slices(path, "FILE", [*BOX_COLUMNS, *POINT_COLUMNS]):
            paths, unsafe = safe_paths.listed(files, functools.partial(_name, path.parent, folder))
            new_names = [name or file for name, file in zip(paths, files)]
            problems |= {len(names) + row: problem for row, problem in (unsafe | broken_lines(broken)).items()}
            names += new_names
            keys += zip(new_names, files) if detections else []
            for rows, values in zip(columns, _fields(numbers)):
                rows.extend(values)
    box, landmarks, visible = (rows.array() for rows in columns)
    roi_boxes, description = _roi_boxes(box), f"umdfaces:{folder.name}"
    if detections:
        points, missing = detected_faces.landmarks_of_file(detections, keys, roi_boxes)
        problems, detected = missing | problems, np.isfinite(points).all(axis=-1)
        roi_boxes, description = roi_boxes_of_68(points, detected), f"{description}:{pathlib.Path(detections).name}"
        landmarks, visible = to_18_landmarks(points, detected)
    make = LandmarkFaces
    if detect:
        make, description = functools.partial(DetectedFaces, make_detector, detect), f"{description}:{detect}"
    return make(
        description=description,
        names=names,
        paths=None,
        landmarks=landmarks,
        visible=visible,
        yaw_deg=box[:, 4],
        roi_boxes=roi_boxes,
        ready=False,
        margin=margin,
        problems=problems,
        root=folder,
        notes=mac_notes([*folder.glob("*"), *folder.glob("*/*ultraface.csv")], folder),
    )


def _fields(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of BOX_COLUMNS and POINT_COLUMNS -> boxes [n, 5], landmarks [n, 21, 2] and their visibility [n, 21]."""
    points = numbers[:, len(BOX_COLUMNS) :].reshape(-1, NUM_POINTS, 3)
    visible = valid_points(points[..., :2]) & (points[..., 2] > VISIBLE_ABOVE)
    return numbers[:, : len(BOX_COLUMNS)], *with_jaw(points[..., :2], visible)


def _find_tables(folder: pathlib.Path) -> list[pathlib.Path]:
    tables = sorted(folder.glob("*ultraface.csv")) or sorted(folder.glob("*/*ultraface.csv"))
    tables, _ = without_mac_files(tables, folder)
    if not tables:
        raise SourceError(
            f"{folder}: no umdfaces_batch*_ultraface.csv in it or one folder below;"
            " give the folder that holds umdfaces_batch1, umdfaces_batch2, ..."
        )
    return tables


def _name(batch: pathlib.Path, root: pathlib.Path, file: str) -> str:
    """Path of a batch's file relative to the root. Raises SkipFace if it leads out of the batch."""
    return safe_paths.joined(batch, file).relative_to(root).as_posix()


def _roi_boxes(box: np.ndarray) -> np.ndarray:
    """FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT [N, >= 4] -> crop boxes [N, 4], NaN where the box is empty."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(box[:, :4]).all(axis=1) & (box[:, 2:4] > 0).all(axis=1)
    corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:4]], axis=1)
    return np.where(good[:, None], np.asarray(projection.roi_box_from_detection(corners)), np.nan)
