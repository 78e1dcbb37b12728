"""AFLW (21 points) and AFLW-LFPA (34 points) as test sets."""

import functools
import os
import pathlib

import numpy as np
import PIL.Image

from data_pipelines.sources import alpha_from_mat, safe_paths
from data_pipelines.sources.base import roi_box_from_18, SkipFace, SourceError, to_18_landmarks
from data_pipelines.sources.mat_300w_lp import read_mat
from data_pipelines.sources.wild_csv import checked_folder, image_path, read_landmark_table, valid_points
from data_pipelines.test_sets.crops import CroppedFaces, cut_faces
from twodal_jax.evaluation.predictions import image_key, listed
from twodal_jax.evaluation.sparse import SparseTruth
from twodal_jax.geometry import projection

AFLW_POINTS, LFPA_POINTS = 21, 34
LANDMARKS_21 = "landmarks21.csv"
LFPA_IMAGES, LFPA_LANDMARKS, LFPA_BOXES = "TestImages", "Landmark.mat", "BoundingBox.mat"
_NOSE_TIP = 14
_MIN_POINTS = 3


def read_aflw(folder: os.PathLike | str) -> tuple[SparseTruth, list[str]]:
    """Reads a folder of images with landmarks21.csv (columns as in `sources.wild_csv`): 21 points, if visible.

    The normaliser is the box around the visible annotated landmarks. 120-pixel images are crops already; others are
    cropped around their landmarks.

    Returns:
      The ground truth, and messages about rows that are left out.

    Raises:
      SourceError: the folder, the table or columns are missing, or no row is usable.
    """
    folder = checked_folder(folder)
    path = folder / LANDMARKS_21
    names, points, visible, yaw, broken = read_landmark_table(path, AFLW_POINTS)
    _, unsafe = safe_paths.listed(names, functools.partial(image_path, folder))
    broken = {row: ": ".join(problem) for row, problem in unsafe.items()} | broken
    usable = ~np.isin(np.arange(len(names)), list(broken))
    kept = np.flatnonzero((visible.sum(axis=1) >= _MIN_POINTS) & usable)
    problems = [f"{folder.name}: left out: {reason}" for reason in list(broken.values())[:10]]
    few = [names[i] for i in range(len(names)) if i not in set(kept) and i not in broken]
    if few:
        problems.append(f"{folder.name}: {listed(few)}: left out: fewer than {_MIN_POINTS} visible landmarks")
    if not len(kept):
        raise SourceError(f"{path}: no row with {_MIN_POINTS} visible landmarks")
    points, visible = np.where(visible[..., None], points, 0.0)[kept], visible[kept]
    crop = np.array([0.0, 0.0, projection.CROP_SIZE, projection.CROP_SIZE], np.float32)
    boxes = []
    for row, i in enumerate(kept):
        ready = _is_crop(image_path(folder, names[i]))
        boxes.append(crop if ready else roi_box_from_18(*to_18_landmarks(points[row], visible[row])))
    truth = SparseTruth(
        name=f"AFLW ({folder.name})",
        keys=[image_key(names[i]) for i in kept],
        points=points,
        visible=visible,
        size=_box_size(points, visible),
        normaliser="sqrt(w h) of the box around the visible annotated landmarks",
        yaw_deg=yaw[kept].astype(np.float64),
        roi_box=np.stack(boxes),
    )
    return truth, problems


def read_lfpa(folder: os.PathLike | str) -> tuple[SparseTruth, list[str]]:
    """Reads AFLW-LFPA: TestImages/1.jpg ..., Landmark.mat and BoundingBox.mat.

    `phisT` of Landmark.mat has rows of 34 x, 34 y, 34 mask; `bboxesT` of BoundingBox.mat has rows of x, y, w, h, and
    its size is the normaliser. The mask's polarity is undocumented and is inferred from the data (`_mask_is_visible`).

    Returns:
      The ground truth, and messages: the mask's polarity, and rows that are left out.

    Raises:
      SourceError: a file is missing or of another form, or no row is usable.
    """
    folder = checked_folder(folder)
    rows = _matrix(folder / LFPA_LANDMARKS, "phisT", 3 * LFPA_POINTS)
    boxes = _matrix(folder / LFPA_BOXES, "bboxesT", 4)
    if len(rows) != len(boxes):
        raise SourceError(f"{folder}: {len(rows)} rows of landmarks, but {len(boxes)} bounding boxes")
    points = np.stack([rows[:, :LFPA_POINTS], rows[:, LFPA_POINTS : 2 * LFPA_POINTS]], axis=-1)
    valid = valid_points(points)
    points = np.where(valid[..., None], alpha_from_mat.mat_points(points), points)
    mask = rows[:, 2 * LFPA_POINTS :] > 0.5
    one_is_visible = _mask_is_visible(points, valid, mask)
    visible = valid & (mask if one_is_visible else ~mask)
    kept = np.flatnonzero((visible.sum(axis=1) >= _MIN_POINTS) & (boxes[:, 2:] > 0).all(axis=1))
    problems = [f"{folder.name}: mask {int(one_is_visible)} means visible, inferred from the far side of turned faces"]
    left_out = [str(i + 1) for i in range(len(rows)) if i not in set(kept)]
    if left_out:
        problems.append(f"{folder.name}: {listed(left_out)}: left out: too few visible landmarks, or no box")
    if not len(kept):
        raise SourceError(f"{folder}: no usable row in {LFPA_LANDMARKS} and {LFPA_BOXES}")
    boxes = boxes[kept]
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].max(axis=1, keepdims=True) / np.sqrt(2.0)
    truth = SparseTruth(
        name="AFLW-LFPA",
        keys=[str(i + 1) for i in kept],
        points=np.where(valid[..., None], points, 0.0)[kept].astype(np.float32),
        visible=visible[kept],
        size=np.sqrt(boxes[:, 2:].prod(axis=1)),
        normaliser="sqrt(w h) of the given bounding box",
        yaw_deg=np.full(len(kept), np.nan),
        roi_box=np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
    )
    return truth, problems


def _mask_is_visible(points: np.ndarray, valid: np.ndarray, mask: np.ndarray) -> bool:
    """Whether mask 1 means visible: hidden landmarks are on the side a turned face is directed to.

    On that side the nose tip is offset from the median of all landmarks. Every face with both mask values votes,
    weighted by this offset; without votes, 1 means visible.
    """
    votes = 0.0
    for face, ok, ones in zip(points, valid, mask):
        if not ok[_NOSE_TIP] or not (ok & ones).any() or not (ok & ~ones).any():
            continue
        offset = face[_NOSE_TIP, 0] - np.median(face[ok, 0])
        votes += offset * np.sign(face[ok & ~ones, 0].mean() - face[ok & ones, 0].mean())
    return bool(votes >= 0)


def _matrix(path: pathlib.Path, key: str, columns: int) -> np.ndarray:
    """float64 [n, columns] of a .mat file."""
    try:
        value = read_mat(path).get(key)
    except SkipFace as skip:
        raise SourceError(f"{skip.detail}; AFLW-LFPA needs {LFPA_IMAGES}/, {LFPA_LANDMARKS} and {LFPA_BOXES}") from None
    if getattr(value, "ndim", 0) != 2 or value.shape[1] != columns or value.dtype.kind not in "fiub":
        raise SourceError(f"{path}: {key} is {getattr(value, 'shape', 'missing')}, expected [n, {columns}]")
    return value.astype(np.float64)


def _box_size(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """sqrt(w h) [n] of the box around the visible points [n, P, 2]."""
    low = np.where(visible[..., None], points, np.inf).min(axis=1)
    high = np.where(visible[..., None], points, -np.inf).max(axis=1)
    return np.sqrt((high - low).prod(axis=1).astype(np.float64))


def _is_crop(path: pathlib.Path) -> bool:
    try:
        with PIL.Image.open(path) as image:
            return image.size == (projection.CROP_SIZE, projection.CROP_SIZE)
    except Exception:  # Pillow raises many types on broken files
        return False


def lfpa_image(folder: pathlib.Path, key: str) -> pathlib.Path:
    """Path of an image of AFLW-LFPA."""
    return folder / LFPA_IMAGES / f"{key}.jpg"


def aflw_image(folder: pathlib.Path, key: str) -> pathlib.Path:
    """Path of an image of AFLW."""
    return image_path(folder, f"{key}.jpg")


def read_faces(
    folder: os.PathLike | str,
    truth: SparseTruth,
    image_of,
    detected: os.PathLike | str | None = None,
    *,
    authors_mouth: bool = False,
) -> tuple[CroppedFaces, list[str]]:
    """Crops of all images, with the landmarks of a detections file if given; see `crops.cut_faces`.

    Without detections the heatmaps are empty: the annotated landmarks are the ground truth and must not be an input.
    `image_of` is a function (folder, key) -> path.
    """
    paths = functools.partial(image_of, pathlib.Path(folder))
    return cut_faces(truth.keys, truth.roi_box, paths, str(folder), detected, authors_mouth=authors_mouth)
