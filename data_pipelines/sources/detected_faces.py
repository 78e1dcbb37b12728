"""Faces of a table with the landmarks of a detector: those of a file, or found while they are prepared.

A picture may show more faces than the table's, so a find counts for a row when its crop box and the row's share
`SAME_FACE` of their union.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.sources.base import landmark_fields, Skip, SkipFace
from data_pipelines.sources.detections import NUM_POINTS, read_detections, stem
from data_pipelines.sources.landmark_faces import LandmarkFaces
from data_pipelines.sources.safe_paths import Problem
from data_pipelines.storage.manifest import Face
from twodal_jax.detection import boxes
from twodal_jax.detection.types import FaceBox
from twodal_jax.geometry import projection
from twodal_jax.io.images import crop_face

SAME_FACE = 0.3
NO_DETECTION = "no detection"
DETECTORS = ("face-alignment",)


def best_match(roi_box: np.ndarray, found: np.ndarray) -> int | None:
    """Which of the found crop boxes [K, 4] is the face of `roi_box` [4]; of a NaN box, the first."""
    if not len(found):
        return None
    if not np.isfinite(roi_box).all():
        return 0
    places = boxes.squares(np.concatenate([roi_box[None], found]))
    shared, _ = boxes.overlap(places[0], places[1:])
    best = int(np.argmax(shared))
    return best if shared[best] >= SAME_FACE else None


def landmarks_of_file(
    path: Any, keys: Sequence[Sequence[str]], roi_boxes: np.ndarray
) -> tuple[np.ndarray, dict[int, Problem]]:
    """A detections file's 68 points for each row.

    Args:
      path: see `detections.py`. keys: of each row, the names it may have in the file. roi_boxes: [N, 4], or NaN.

    Returns:
      float32 [N, 68, 2], image pixels, NaN without a detection; and {row: problem} of these rows.
    """
    names, landmarks = read_detections(path)
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if np.isfinite(landmarks[place]).all():
            places.setdefault(stem(name), []).append(place)
    result = np.full((len(keys), NUM_POINTS, 2), np.nan, np.float32)
    problems = {}
    for row, names_of_row in enumerate(keys):
        listed = next((places[stem(name)] for name in names_of_row if stem(name) in places), [])
        found = _boxes_of(landmarks[listed])
        best = best_match(roi_boxes[row], found)
        if best is None:
            problems[row] = (NO_DETECTION, f"{names_of_row[0]}: {len(listed)} detections in {path}, none is this face")
        else:
            result[row] = landmarks[listed[best]]
    return result, problems


def _boxes_of(landmarks: np.ndarray) -> np.ndarray:
    """[K, 68, 2] -> crop boxes [K, 4], as `projection.roi_box_from_landmarks`; in NumPy, row by row."""
    if not len(landmarks):
        return np.zeros((0, 4))
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    half = np.sqrt(2.0) / 2 * (high - low).max(axis=1, keepdims=True)
    return np.concatenate([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)


def detect_face(detector: Any, image: np.ndarray, roi_box: np.ndarray) -> tuple[FaceBox | None, int]:
    """Finds the face of a crop box in an image.

    Args:
      detector: a `reconstruction.detectors.FaceDetector` that gives landmarks. image: BGR uint8 [H, W, 3].
      roi_box: [4], see `best_match`.

    Returns:
      The face with its landmarks, or None; and how many faces were found in all.
    """
    found = [face for face in detector.detect(image) if face.landmarks is not None]
    best = best_match(roi_box, np.array([face.roi_box for face in found]).reshape(-1, 4))
    return None if best is None else found[best], len(found)


class DetectedFaces(LandmarkFaces):
    """A table of faces whose landmarks a detector finds in the images, one row at a time.

    Crops are upright like all of training's, also of faces that the detector calls turned.

    Args:
      make_detector: makes the `reconstruction.detectors.FaceDetector`, on first use in each process; it must give
        landmarks.
      The others are those of `LandmarkFaces`; the table's landmarks are not looked at.
    """

    def __init__(self, make_detector: Callable[[], Any], detector: str, **table: Any):
        super().__init__(**table)
        self._make_detector, self._detector_name = make_detector, detector

    @functools.cached_property
    def _detector(self) -> Any:
        return self._make_detector()

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-{self._detector_name}"

    def _read(self, row: int, roi_box: np.ndarray | Skip | None, landmarks: np.ndarray) -> Face:
        if row in self.problems:
            raise SkipFace(*self.problems[row])
        image = self._image(row)
        face, count = detect_face(self._detector, image, self.roi_boxes[row])
        if face is None:
            raise SkipFace(
                NO_DETECTION, f"{self.path(row)}: {self._detector_name} finds {count} faces, none is this one"
            )
        points = np.asarray(projection.image_to_crop(np.float32(face.landmarks), face.roi_box))
        return {
            "name": self.names[row],
            "image": crop_face(image, face.roi_box, self.margin),
            "yaw_deg": self.yaw_deg[row],
            **landmark_fields(points, face.visible),
        }


def face_alignment_detector() -> Any:
    """The detector of DETECTORS[0]. Raises ModuleNotFoundError, with what to install."""
    from twodal_jax.detection.detectors import FaceAlignmentDetector

    return FaceAlignmentDetector()
