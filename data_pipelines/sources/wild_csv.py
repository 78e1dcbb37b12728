"""In-the-wild faces: a folder of images with a landmark CSV, or with a file of detections.

The CSV's header names `file`, optionally `yaw_deg`, and x0, y0, ... of 21 (AFLW), 68 (iBUG) or 18 points with optional
visible0 ... (1 or 0). A point is invisible if its flag is 0 or a coordinate is empty, NaN or -1. The images are beside
the CSV or in `images`. They are 120 x 120 crops, or whole images that are cropped around the landmarks.
"""

import functools
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from data_pipelines.sources import safe_paths
from data_pipelines.sources.base import mac_notes, SourceError, with_jaw, without_mac_files
from data_pipelines.sources.csv_table import broken_lines, read_columns, read_header
from data_pipelines.sources.detections import read_detections
from data_pipelines.sources.landmark_faces import LandmarkFaces
from twodal_jax.geometry import projection

FILE_COLUMNS = ("file", "name", "image", "filename", "FILE")
YAW_COLUMNS = ("yaw_deg", "yaw")
POINT_COUNTS = (18, 21, 68)


class LandmarkTable(NamedTuple):
    """Content of a landmark CSV.

    Attributes:
      names: N image names.
      landmarks: [N, P, 2] float32 as in the file; invalid points are NaN or -1.
      visible: [N, P] bool.
      yaw_deg: [N], NaN where unknown.
      problems: {row: problem} of broken lines.
    """

    names: list[str]
    landmarks: np.ndarray
    visible: np.ndarray
    yaw_deg: np.ndarray
    problems: dict[int, str]


def read_landmark_table(path: pathlib.Path, count: int | None = None) -> LandmarkTable:
    """Reads a landmark CSV of `count` points; None: 18, 21 or 68 according to the header.

    Raises SourceError if the file or columns are missing; the message names them and those that exist.
    """
    header = read_header(path)
    file_column = next((name for name in FILE_COLUMNS if name in header), FILE_COLUMNS[0])
    yaw_column = [name for name in YAW_COLUMNS if name in header][:1]
    count = count or _point_count(header)
    xy = [f"{axis}{k}" for k in range(count) for axis in "xy"]
    flags = [f"visible{k}" for k in range(count)] if "visible0" in header else []
    names, numbers, problems = read_columns(path, file_column, [*xy, *flags, *yaw_column])
    landmarks = numbers[:, : 2 * count].reshape(-1, count, 2)
    visible = valid_points(landmarks)
    if flags:
        visible &= numbers[:, 2 * count : 3 * count] > 0.5
    yaw = numbers[:, -1] if yaw_column else np.full(len(names), np.nan)
    return LandmarkTable(names, landmarks, visible, yaw, problems)


def wild_csv_faces(
    folder: os.PathLike | str,
    *,
    csv_path: os.PathLike | str | None = None,
    ready: bool | None = None,
    margin: int = 20,
    pixel_origin: float = 0.0,
) -> LandmarkFaces:
    """Source of wild faces: a folder of images and a landmark CSV.

    Args:
      folder: the folder.
      csv_path: the table; default: the only .csv in the folder.
      ready: whether the images are 120 x 120 crops; None: decided by the first ones.
      margin: pixels stored around the 120-pixel crop.
      pixel_origin: the table's coordinate of the centre of an image's first pixel: 1 where it counts from 1 like
        MATLAB. It is subtracted, so that landmarks are in the frames of `geometry.projection`.

    Raises:
      SourceError: the folder is missing, there is not exactly one CSV, or columns are missing.
    """
    folder = checked_folder(folder)
    path = pathlib.Path(csv_path) if csv_path else _only_table(folder)
    table = read_landmark_table(path)
    valid = valid_points(table.landmarks)
    landmarks = np.where(valid[..., None], table.landmarks - pixel_origin, table.landmarks)
    return _image_folder(
        folder, f"wild_csv:{folder.name}/{path.name}", table._replace(landmarks=landmarks), ready=ready, margin=margin
    )


def detection_faces(
    folder: os.PathLike | str,
    *,
    detections_path: os.PathLike | str | None = None,
    ready: bool | None = None,
    margin: int = 20,
) -> LandmarkFaces:
    """Source of wild faces: a folder of images and a file of 68-point detections (`sources.detections`).

    Without `detections_path` it is the folder's only .csv or .npz file.
    """
    folder = checked_folder(folder)
    path = pathlib.Path(detections_path) if detections_path else _only_table(folder, (".csv", ".npz"))
    names, landmarks = read_detections(path)
    visible = np.isfinite(landmarks).all(axis=-1)
    table = LandmarkTable(names, landmarks, visible, np.full(len(names), np.nan), {})
    return _image_folder(folder, f"detections:{folder.name}/{path.name}", table, ready=ready, margin=margin)


def _image_folder(
    folder: pathlib.Path, description: str, table: LandmarkTable, *, ready: bool | None, margin: int
) -> LandmarkFaces:
    points, seen = with_jaw(table.landmarks, table.visible)
    paths, unsafe = safe_paths.listed(table.names, functools.partial(image_path, folder))
    return LandmarkFaces(
        description=description,
        names=table.names,
        paths=paths,
        landmarks=points,
        visible=seen,
        yaw_deg=table.yaw_deg,
        roi_boxes=roi_boxes_of_68(table.landmarks, table.visible),
        ready=ready,
        margin=margin,
        problems=unsafe | broken_lines(table.problems),
        root=folder,
        notes=mac_notes(folder.iterdir(), folder),
    )


def valid_points(landmarks: np.ndarray) -> np.ndarray:
    """Whether both coordinates are finite and not -1, the mark of a missing point: [..., 2] -> bool [...]."""
    return np.isfinite(landmarks).all(axis=-1) & ~(landmarks == -1).any(axis=-1)


def roi_boxes_of_68(landmarks: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Crop boxes [N, 4] of landmarks [N, 68, 2]; NaN for rows with invisible points, and for other point counts."""
    boxes = np.full((len(landmarks), 4), np.nan, np.float32)
    complete = visible.all(axis=1)
    if landmarks.shape[1] == 68 and complete.any():
        boxes[complete] = np.asarray(projection.roi_box_from_landmarks(np.float32(landmarks[complete])))
    return boxes


def checked_folder(folder: os.PathLike | str) -> pathlib.Path:
    """Path of an existing folder. Raises SourceError if it does not exist."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the one that holds the images")
    return folder


def image_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Path of a table's image: in `images`, in the folder, or either with .jpg added.

    Raises SkipFace if the name leads out of the folder.
    """
    name = safe_paths.joined(folder, name).relative_to(folder).as_posix()
    candidates = [folder / "images" / name, folder / name, folder / "images" / f"{name}.jpg", folder / f"{name}.jpg"]
    # Not `path.is_file()`, which raises for a name of more than 255 bytes.
    return next((path for path in candidates if os.path.isfile(path)), candidates[1])


def _only_table(folder: pathlib.Path, suffixes: tuple[str, ...] = (".csv",)) -> pathlib.Path:
    paths = sorted(path for path in without_mac_files(folder.iterdir(), folder)[0] if path.suffix in suffixes)
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise SourceError(
            f"{folder}: expected one {' or '.join(suffixes)} with the landmarks, found {names};"
            " name it with --landmarks"
        )
    return paths[0]


def _point_count(header: list[str]) -> int:
    """18, 21 or 68, from the highest x<k> in the header."""
    numbers = [int(match[1]) for name in header if (match := re.fullmatch(r"x(\d+)", name))]
    highest = max(numbers, default=POINT_COUNTS[1] - 1)
    return next((count for count in POINT_COUNTS if highest < count), POINT_COUNTS[-1])
