"""In-the-wild faces: a folder of images with a landmark CSV.

The CSV's header names `file`, optionally `yaw_deg`, and x0, y0, ... of 21 (AFLW), 68 (iBUG) or 18
points with optional visible0 ... (1 or 0). A point is invisible if its flag is 0 or a coordinate is
empty, NaN or -1. Images lie beside the CSV or in `images`; they are 120 x 120 crops, or whole
images, which are then cropped around the landmarks.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re

import numpy as np

from data_pipelines.sources import safe_paths
from data_pipelines.sources.base import SourceError, to_18_landmarks, with_jaw
from data_pipelines.sources.csv_table import broken_lines, read_columns, read_header
from data_pipelines.sources.detections import read_detections
from data_pipelines.sources.landmark_faces import LandmarkFaces
from twodal_jax.geometry import projection

FILE_COLUMNS = ("file", "name", "image", "filename", "FILE")
YAW_COLUMNS = ("yaw_deg", "yaw")
POINT_COUNTS = (18, 21, 68)


def wild_csv_faces(
    folder: os.PathLike | str,
    *,
    csv_path: os.PathLike | str | None = None,
    ready: bool | None = None,
    margin: int = 20,
    pixel_origin: float = 0.0,
) -> LandmarkFaces:
    """A folder of images and a landmark CSV -> source of wild faces.

    Args:
      folder: the folder. csv_path: the table; by default the only .csv in the folder.
      ready: whether the images are 120 x 120 crops; None looks at the first ones.
      pixel_origin: what the table calls the centre of an image's first pixel: 1 where it counts from 1 as MATLAB does.
        It is subtracted, so that landmarks are in `projection`'s frames.

    Raises:
      SourceError: no folder, no (or several) CSV, missing columns (named, with those found).
    """
    folder = checked_folder(folder)
    path = pathlib.Path(csv_path) if csv_path else _only_csv(folder)
    header = read_header(path)
    file_column = next((name for name in FILE_COLUMNS if name in header), FILE_COLUMNS[0])
    yaw_column = [name for name in YAW_COLUMNS if name in header][:1]
    count = _point_count(header)
    xy = [f"{axis}{k}" for k in range(count) for axis in "xy"]
    flags = [f"visible{k}" for k in range(count)] if "visible0" in header else []
    names, numbers, problems = read_columns(path, file_column, [*xy, *flags, *yaw_column])
    landmarks = numbers[:, : 2 * count].reshape(-1, count, 2)
    visible = valid_points(landmarks)
    landmarks = np.where(visible[..., None], landmarks - pixel_origin, landmarks)
    if flags:
        visible &= numbers[:, 2 * count : 3 * count] > 0.5
    points, seen = with_jaw(landmarks, visible)
    yaw = numbers[:, -1] if yaw_column else np.full(len(names), np.nan)
    paths, refused = safe_paths.listed(names, functools.partial(image_path, folder))
    return LandmarkFaces(
        description=f"wild_csv:{folder.name}/{path.name}",
        names=names,
        paths=paths,
        landmarks=points,
        visible=seen,
        yaw_deg=yaw,
        roi_boxes=roi_boxes_of_68(landmarks, visible),
        ready=ready,
        margin=margin,
        problems=refused | broken_lines(problems),
        root=folder,
    )


def detection_faces(
    folder: os.PathLike | str,
    *,
    detections_path: os.PathLike | str | None = None,
    ready: bool | None = None,
    margin: int = 20,
) -> LandmarkFaces:
    """A folder of images and a file of 68-point detections (`detections.py`) -> wild faces.

    Without `detections_path` it is the folder's only .csv or .npz file.
    """
    folder = checked_folder(folder)
    path = pathlib.Path(detections_path) if detections_path else _only_csv(folder, (".csv", ".npz"))
    names, landmarks = read_detections(path)
    visible = np.isfinite(landmarks).all(axis=-1)
    points, seen = to_18_landmarks(landmarks, visible)
    paths, refused = safe_paths.listed(names, functools.partial(image_path, folder))
    return LandmarkFaces(
        description=f"detections:{folder.name}/{path.name}",
        names=names,
        paths=paths,
        landmarks=points,
        visible=seen,
        yaw_deg=np.full(len(names), np.nan),
        roi_boxes=roi_boxes_of_68(landmarks, visible),
        ready=ready,
        margin=margin,
        problems=refused,
        root=folder,
    )


def valid_points(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [..., 2] -> bool [...]: both coordinates are finite and not the marker -1."""
    return np.isfinite(landmarks).all(axis=-1) & ~(landmarks == -1).any(axis=-1)


def roi_boxes_of_68(landmarks: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """[N, 68, 2] -> crop boxes [N, 4] of the rows with all points; NaN for the rest, or for 21."""
    boxes = np.full((len(landmarks), 4), np.nan, np.float32)
    whole = visible.all(axis=1)
    if landmarks.shape[1] == 68 and whole.any():
        boxes[whole] = np.asarray(projection.roi_box_from_landmarks(np.float32(landmarks[whole])))
    return boxes


def checked_folder(folder: os.PathLike | str) -> pathlib.Path:
    """The folder's path. Raises SourceError if there is none."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the one that holds the images")
    return folder


def image_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where an image of a table lies: in `images`, in the folder, or with .jpg added.

    Raises SkipFace where the name would lead out of the folder.
    """
    name = safe_paths.joined(folder, name).relative_to(folder).as_posix()
    candidates = [folder / "images" / name, folder / name, folder / "images" / f"{name}.jpg", folder / f"{name}.jpg"]
    # Not `path.is_file()`, which raises for a name of more than 255 bytes.
    return next((path for path in candidates if os.path.isfile(path)), candidates[1])


def _only_csv(folder: pathlib.Path, suffixes: tuple[str, ...] = (".csv",)) -> pathlib.Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(
            f"{folder}: expected one {' or '.join(suffixes)} with the landmarks, found"
            f" {names}; name it with --landmarks"
        )
    return found[0]


def _point_count(header: list[str]) -> int:
    """18, 21 or 68, from the highest x<k> in the header."""
    numbers = [int(match[1]) for name in header if (match := re.fullmatch(r"x(\d+)", name))]
    highest = max(numbers, default=POINT_COUNTS[1] - 1)
    return next((count for count in POINT_COUNTS if highest < count), POINT_COUNTS[-1])
