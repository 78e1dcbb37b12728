"""Faces of a table with a detector's landmarks, read from a file or detected during preparation.

An image may show more faces than the table lists. A detection belongs to a row if the intersection over union of its
crop box and the row's is at least `MIN_OVERLAP`.
"""

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

MIN_OVERLAP = 0.3
NO_DETECTION = "no detection"
DETECTORS = ("face-alignment",)


def best_match(roi_box: np.ndarray, detected: np.ndarray) -> int | None:
    """Index of the detected crop box [K, 4] that shows the face of `roi_box` [4], or None; 0 for a NaN box."""
    if not len(detected):
        return None
    if not np.isfinite(roi_box).all():
        return 0
    squares = boxes.squares(np.concatenate([roi_box[None], detected]))
    overlaps, _ = boxes.overlap(squares[0], squares[1:])
    best = int(np.argmax(overlaps))
    return best if overlaps[best] >= MIN_OVERLAP else None


def landmarks_of_file(
    path: Any, keys: Sequence[Sequence[str]], roi_boxes: np.ndarray
) -> tuple[np.ndarray, dict[int, Problem]]:
    """A detections file's 68 points for each row.

    Args:
      path: the file (`sources.detections`).
      keys: for each row, the names it may have in the file.
      roi_boxes: [N, 4] image pixels, or NaN.

    Returns:
      float32 [N, 68, 2], image pixels, NaN without a detection; and {row: problem} of these rows.
    """
    names, landmarks = read_detections(path)
    indices_of: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if np.isfinite(landmarks[index]).all():
            indices_of.setdefault(stem(name), []).append(index)
    result = np.full((len(keys), NUM_POINTS, 2), np.nan, np.float32)
    problems = {}
    for row, row_names in enumerate(keys):
        listed = next((indices_of[stem(name)] for name in row_names if stem(name) in indices_of), [])
        best = best_match(roi_boxes[row], _roi_boxes(landmarks[listed]))
        if best is None:
            problems[row] = (NO_DETECTION, f"{row_names[0]}: {len(listed)} detections in {path}, none is this face")
        else:
            result[row] = landmarks[listed[best]]
    return result, problems


def _roi_boxes(landmarks: np.ndarray) -> np.ndarray:
    """`projection.roi_box_from_landmarks` in NumPy: [K, 68, 2] -> crop boxes [K, 4]."""
    if not len(landmarks):
        return np.zeros((0, 4))
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    half = np.sqrt(2.0) / 2 * (high - low).max(axis=1, keepdims=True)
    return np.concatenate([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)


def detect_face(detector: Any, image: np.ndarray, roi_box: np.ndarray) -> tuple[FaceBox | None, int]:
    """Detects the face of a crop box in an image.

    Args:
      detector: a `detection.detectors.FaceDetector` that gives landmarks.
      image: BGR uint8 [H, W, 3].
      roi_box: [4], see `best_match`.

    Returns:
      The face with its landmarks, or None; and the number of faces detected.
    """
    faces = [face for face in detector.detect(image) if face.landmarks is not None]
    best = best_match(roi_box, np.array([face.roi_box for face in faces]).reshape(-1, 4))
    return None if best is None else faces[best], len(faces)


class DetectedFaces(LandmarkFaces):
    """A table of faces whose landmarks are detected in the images, one row at a time.

    Crops are upright like all training crops, even if the detector reports a rotated face.

    Args:
      make_detector: makes the `detection.detectors.FaceDetector` on first use in each process; it must give landmarks.
      detector: its name.
      **table: arguments of `LandmarkFaces`; the table's landmarks are ignored.
    """

    def __init__(self, make_detector: Callable[[], Any], detector: str, **table: Any):
        super().__init__(**table)
        self._make_detector, self._detector_name = make_detector, detector

    @functools.cached_property
    def _detector(self) -> Any:
        return self._make_detector()

    def fingerprint(self) -> str:
        """Hash of the table and the detector's name."""
        return f"{super().fingerprint()}-{self._detector_name}"

    def _read(self, row: int, roi_box: np.ndarray | Skip | None, landmarks: np.ndarray) -> Face:
        if row in self.problems:
            raise SkipFace(*self.problems[row])
        image = self._image(row)
        face, count = detect_face(self._detector, image, self.roi_boxes[row])
        if face is None:
            raise SkipFace(
                NO_DETECTION, f"{self.path(row)}: {self._detector_name} detected {count} faces, none is this one"
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
