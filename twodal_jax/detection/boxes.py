"""Detections from a detector's box or from landmarks, and their overlaps. Image pixels, y down; NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np

from twodal_jax.detection.types import FaceBox
from twodal_jax.geometry import heatmap, projection

# A face with a smaller roll is cropped upright, as in training; a larger roll is followed.
MIN_ROLL = 30.0
# Indices of the 18 landmarks: brows and eyes, and the mouth.
_UPPER, _MOUTH = np.arange(12), np.arange(15, 18)


def from_detection(box: np.ndarray, roll_degrees: float = 0.0, score: float = 1.0) -> FaceBox:
    """Detection from a detector's box [4] (x1, y1, x2, y2), by `projection.roi_box_from_detection`."""
    roi_box = np.asarray(projection.roi_box_from_detection(np.asarray(box, np.float32)))
    return FaceBox(roi_box, float(roll_degrees), float(score))


def from_landmarks68(landmarks: np.ndarray, score: float = 1.0) -> FaceBox:
    """Detection from 68 landmarks [68, 2 or 3] (iBUG order): training's crop box, and the heatmap's 18 landmarks."""
    landmarks = np.asarray(landmarks, np.float32)[:, :2]
    eighteen = np.asarray(heatmap.landmarks_18_from_68(landmarks))
    roll = roll_of(eighteen)
    centre, side = _box_along_roll(landmarks, roll)
    found = _detection(centre, np.sqrt(2.0) * side, roll, score, eighteen, np.ones(18))
    return dataclasses.replace(found, landmarks68=landmarks)


def from_landmarks18(landmarks: np.ndarray, visible: np.ndarray, score: float = 1.0) -> FaceBox:
    """Detection from 18 landmarks [18, 2], visible [18]; the box of all 68 is estimated.

    The 18 leave out the jaw: side 1.93 max(w, h), centre 0.17 max(w, h) below theirs, as in training for faces with
    18 landmarks (`data_pipelines.sources.base.roi_box_from_18`).

    Raises:
      ValueError: fewer than three are visible, or all are at one point.
    """
    seen = (np.asarray(visible) > 0) & np.isfinite(landmarks).all(axis=-1)
    if seen.sum() < 3 or not np.ptp(landmarks[seen], axis=0).any():
        raise ValueError(f"3 different visible landmarks are needed to place the crop, got {seen.sum()}")
    roll = roll_of(np.where(seen[:, None], landmarks, np.nan))
    centre, side = _box_along_roll(landmarks[seen], roll)
    turn = np.radians(roll)
    centre = centre + 0.17 * side * np.array([-np.sin(turn), np.cos(turn)])
    points = np.where(seen[:, None], landmarks, 0.0).astype(np.float32)
    return _detection(centre, 1.93 * side, roll, score, points, seen)


def roll_of(landmarks18: np.ndarray) -> float:
    """Roll in degrees, clockwise, from the direction of brows and eyes to the mouth; landmarks18 [18, 2].

    0 up to `MIN_ROLL`, or where either part is unknown (NaN).
    """
    ends = [landmarks18[part][np.isfinite(landmarks18[part]).all(axis=-1)] for part in (_UPPER, _MOUTH)]
    if not (len(ends[0]) and len(ends[1])):
        return 0.0
    right, down = ends[1].mean(axis=0) - ends[0].mean(axis=0)
    roll = float(np.degrees(np.arctan2(-right, down)))
    return roll if abs(roll) > MIN_ROLL else 0.0


def _box_along_roll(points: np.ndarray, roll: float) -> tuple[np.ndarray, float]:
    """Centre [2] and larger side of the points' bounding box, along a roll."""
    turn = np.radians(roll)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])  # upright -> picture
    upright = points @ axes
    low, high = upright.min(axis=0), upright.max(axis=0)
    return axes @ ((low + high) / 2), float((high - low).max())


def _detection(centre, side, roll, score, landmarks, visible) -> FaceBox:
    roi_box = np.concatenate([centre - side / 2, centre + side / 2]).astype(np.float32)
    return FaceBox(roi_box, roll, float(min(1.0, score)), landmarks, np.asarray(visible, np.float32))


def squares(roi_boxes: np.ndarray) -> np.ndarray:
    """[K, 4] boxes -> [K, 3] centre x, y and mean side."""
    low, high = np.split(np.asarray(roi_boxes, np.float64).reshape(-1, 4), 2, axis=1)
    return np.column_stack([(low + high) / 2, (high - low).mean(axis=1)])


def overlap(square: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area that one square [3] (`squares`) shares with others [K, 3]: [K] of the union, [K] of the smaller square."""
    low = np.maximum(square[:2] - square[2] / 2, others[:, :2] - others[:, 2:3] / 2)
    high = np.minimum(square[:2] + square[2] / 2, others[:, :2] + others[:, 2:3] / 2)
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = square[2] ** 2 + others[:, 2] ** 2 - shared
    return shared / union, shared / np.minimum(square[2], others[:, 2]) ** 2


def suppress_overlaps(faces: list, share: float = 0.5, score_field: str = "score") -> list:
    """Removes faces that share at least `share` of the smaller square with a more certain one; most certain first.

    faces: objects with a `roi_box`; `score_field` names the field of their certainty.
    """
    faces = sorted(faces, key=lambda face: -getattr(face, score_field))
    places = squares([face.roi_box for face in faces])
    kept: list[int] = []
    for i in range(len(faces)):
        if not kept or (overlap(places[i], places[kept])[1] < share).all():
            kept.append(i)
    return [faces[i] for i in kept]
