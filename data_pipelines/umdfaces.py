"""UMDFaces: batches of images with a CSV each -> wild faces.

`umdfaces_batch{1,2,3}/umdfaces_batch{n}_ultraface.csv` has one header line and is read by column
name: FILE (relative to the batch folder), FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT, YAW, and
P1X, P1Y, VIS1 ... P21X, P21Y, VIS21 in AFLW's order of 21 points, whole-image pixels.
"""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np

from data_pipelines import safe_paths
from data_pipelines.faces import SourceError, as_18
from data_pipelines.landmark_faces import LandmarkFaces
from data_pipelines.tables import broken_lines, read_columns
from data_pipelines.wild import checked_folder, valid_points
from twodal_jax import projection

NUM_POINTS = 21
VISIBLE_ABOVE = 0.5  # VIS is a float, about 0 for hidden and about 1 for visible points
BOX_COLUMNS = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT", "YAW")


def umdfaces(folder: os.PathLike | str, *, margin: int = 20) -> LandmarkFaces:
    """A folder with UMDFaces batches, or one batch folder -> source of wild faces.

    The crop is placed by the face box (`projection.roi_box_from_detection`), or by the landmarks
    where the box is empty. `yaw_deg` is YAW as it stands in the file.

    Raises:
      SourceError: no folder, no CSV, or missing columns (named, with those found).
    """
    folder = checked_folder(folder)
    tables = [_read_batch(path, folder) for path in _find_tables(folder)]
    names, paths, problems = [], [], {}
    for table_names, table_paths, _, table_problems in tables:
        problems.update({len(names) + row: problem for row, problem in table_problems.items()})
        names += table_names
        paths += table_paths
    numbers = np.concatenate([table[2] for table in tables])
    box, points = numbers[:, :5], numbers[:, 5:].reshape(-1, NUM_POINTS, 3)
    visible = valid_points(points[..., :2]) & (points[..., 2] > VISIBLE_ABOVE)
    landmarks, seen = as_18(points[..., :2], visible)
    return LandmarkFaces(
        description=f"umdfaces:{folder.name}", names=names, paths=paths, landmarks=landmarks,
        visible=seen, yaw_deg=box[:, 4], roi_boxes=_roi_boxes(box), ready=False, margin=margin,
        problems=problems, root=folder)


def _find_tables(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(folder.glob("*ultraface.csv")) or sorted(folder.glob("*/*ultraface.csv"))
    if not found:
        raise SourceError(f"{folder}: no umdfaces_batch*_ultraface.csv in it or one folder below;"
                          " give the folder that holds umdfaces_batch1, umdfaces_batch2, ...")
    return found


def _read_batch(path: pathlib.Path, root: pathlib.Path):
    columns = [f"{kind}{k}{axis}" if axis else f"{kind}{k}" for k in range(1, NUM_POINTS + 1)
               for kind, axis in (("P", "X"), ("P", "Y"), ("VIS", ""))]
    files, numbers, problems = read_columns(path, "FILE", [*BOX_COLUMNS, *columns])
    paths, refused = safe_paths.listed(files, functools.partial(safe_paths.joined, path.parent))
    names = [image.relative_to(root).as_posix() if image else file for image, file in zip(paths, files)]
    return names, paths, numbers, refused | broken_lines(problems)


def _roi_boxes(box: np.ndarray) -> np.ndarray:
    """FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT [N, >= 4] -> crop boxes [N, 4], NaN without a box."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(box[:, :4]).all(axis=1) & (box[:, 2:4] > 0).all(axis=1)
    corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:4]], axis=1)
    return np.where(good[:, None], np.asarray(projection.roi_box_from_detection(corners)), np.nan)
