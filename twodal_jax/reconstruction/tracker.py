"""Tracking of faces through a video: each frame's faces give the boxes of the next frame.

The next box surrounds the face's landmarks (`boxes.from_landmarks68`), which also give its heatmap. The detector,
which is slow, runs on the first frame, after a cut, when a face was lost, and at intervals for new faces. This module
knows no file and no network: the caller passes `reconstruct`.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from twodal_jax.detection import boxes
from twodal_jax.detection.detectors import FaceDetector
from twodal_jax.detection.types import Face, FaceBox
from twodal_jax.export.files import write_together

Reconstruct = Callable[[np.ndarray, Sequence[FaceBox]], list[Face]]
_THUMBNAIL = (32, 18)


@dataclasses.dataclass(frozen=True)
class TrackingSettings:
    """Thresholds of the tracker, and the intervals of the detector.

    Attributes:
      min_confidence: a tracked face below it is lost.
      min_new_confidence: a new detection below it is not a face.
      min_side: pixels; a face with a smaller box is lost.
      min_overlap: two boxes of one face, one frame apart, share at least this much of their union.
      same_face: two boxes that share this much of the smaller one are one face.
      find_every: frames between two runs of the detector.
      retry_every: the same while a face is lost or there is none.
      remember: frames for which a lost face keeps its number if it is detected near its last place.
      cut: mean difference (of 255) between reduced copies of two frames at which the scene has changed.
      hand_on_landmarks: whether the landmarks of the previous frame enter the heatmap.
    """

    min_confidence: float = 0.2
    min_new_confidence: float = 0.5
    min_side: float = 20.0
    min_overlap: float = 0.4
    same_face: float = 0.6
    find_every: int = 30
    retry_every: int = 5
    remember: int = 50
    cut: float = 40.0
    hand_on_landmarks: bool = True


@dataclasses.dataclass(frozen=True)
class TrackedFace:
    """A face of one frame, and its number in the video (from 0, never reused)."""

    face_id: int
    face: Face


@dataclasses.dataclass
class _Track:
    face_id: int
    face: Face
    seen: int  # its last frame


class Tracker:
    """Tracks the faces of a video.

    Args:
      reconstruct: (image BGR uint8 [H, W, 3], boxes) -> at most one face a box, in any order.
      detector: detects faces in a whole frame.
      settings: see `TrackingSettings`.
    """

    def __init__(
        self, reconstruct: Reconstruct, detector: FaceDetector, settings: TrackingSettings = TrackingSettings()
    ):
        self._reconstruct, self._detector, self.settings = reconstruct, detector, settings
        self._tracks: list[_Track] = []
        self._frame = -1
        self._found_in: int | None = None
        self._thumbnail: np.ndarray | None = None
        self._next_id = 0

    def __call__(self, image: np.ndarray) -> list[TrackedFace]:
        """Processes the next frame, BGR uint8 [H, W, 3] -> its faces, the oldest first."""
        self._frame += 1
        if self._is_cut(image):
            self._tracks, self._found_in = [], None
        before = [track for track in self._tracks if track.seen == self._frame - 1]
        self._follow(image, before)
        lost = any(track.seen < self._frame for track in before)
        if self._should_detect(lost):
            self._detect(image)
        self._tracks = [track for track in self._tracks if self._frame - track.seen <= self.settings.remember]
        seen = [track for track in self._tracks if track.seen == self._frame]
        return [TrackedFace(track.face_id, track.face) for track in sorted(seen, key=lambda t: t.face_id)]

    def _is_cut(self, image: np.ndarray) -> bool:
        small = cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._thumbnail = self._thumbnail, small
        return before is not None and float(np.abs(small - before).mean()) > self.settings.cut

    def _should_detect(self, lost: bool) -> bool:
        if self._found_in is None or lost:
            return True
        missing = any(track.seen < self._frame for track in self._tracks) or not self._tracks
        every = self.settings.retry_every if missing else self.settings.find_every
        return self._frame - self._found_in >= every

    def _follow(self, image: np.ndarray, tracks: list[_Track]) -> None:
        """Reconstructs each face at its last place."""
        if not tracks:
            return
        places = [boxes.from_landmarks68(track.face.landmarks68) for track in tracks]
        if not self.settings.hand_on_landmarks:
            places = [dataclasses.replace(place, landmarks=None, visible=None, landmarks68=None) for place in places]
        for face, track in self._pairs(self._good_faces(image, places), tracks, self.settings.min_overlap):
            track.face, track.seen = face, self._frame

    def _detect(self, image: np.ndarray) -> None:
        """Detects faces in the whole frame and adds those that are not tracked."""
        self._found_in = self._frame
        followed = [track.face.roi_box for track in self._tracks if track.seen == self._frame]
        new = [box for box in self._detector.detect(image) if not self._is_among(box.roi_box, followed)]
        faces = self._good_faces(image, new) if new else []
        faces = [
            face
            for face in faces
            if face.confidence >= self.settings.min_new_confidence and not self._is_among(face.roi_box, followed)
        ]
        lost = [track for track in self._tracks if track.seen < self._frame]
        again = self._pairs(faces, lost, 0.0)
        for face, track in again:
            track.face, track.seen = face, self._frame
        for face in sorted(faces, key=lambda face: face.roi_box[0]):  # new faces are numbered from the left
            if not any(face is other for other, _ in again):
                self._tracks.append(_Track(self._next_id, face, self._frame))
                self._next_id += 1

    def _good_faces(self, image: np.ndarray, places: Sequence[FaceBox]) -> list[Face]:
        """Faces above the thresholds with their centre in the image, without duplicates, the most certain first."""
        good: list[Face] = []
        for face in sorted(self._reconstruct(image, places), key=lambda face: -face.confidence):
            centre = (face.roi_box[:2] + face.roi_box[2:]) / 2
            inside = (centre >= 0).all() and (centre < image.shape[1::-1]).all()
            usable = inside and face.roi_box[2] - face.roi_box[0] >= self.settings.min_side
            usable = usable and np.isfinite(face.alpha).all() and np.isfinite(face.landmarks68).all()
            if face.confidence < self.settings.min_confidence or not usable:
                continue
            # Two boxes may converge to the same face.
            if not self._is_among(face.roi_box, [other.roi_box for other in good]):
                good.append(face)
        return good

    def _is_among(self, roi_box: np.ndarray, others: Sequence[np.ndarray]) -> bool:
        if not others:
            return False
        _, of_smaller = boxes.overlap(boxes.squares(roi_box)[0], boxes.squares(np.stack(others)))
        return bool((of_smaller > self.settings.same_face).any())

    @staticmethod
    def _pairs(faces: list[Face], tracks: list[_Track], least: float) -> list[tuple[Face, _Track]]:
        """One-to-one pairs of faces and tracks by their shared union, the largest first, above `least`."""
        if not (faces and tracks):
            return []
        here = boxes.squares(np.stack([face.roi_box for face in faces]))
        there = boxes.squares(np.stack([track.face.roi_box for track in tracks]))
        shares = np.stack([boxes.overlap(square, there)[0] for square in here])
        pairs = []
        while shares.max() > least:
            i, j = np.unravel_index(np.argmax(shares), shares.shape)
            pairs.append((faces[i], tracks[j]))
            shares[i, :], shares[:, j] = -1, -1
        return pairs


class AlphaLog:
    """The content of a video's .npz: one row for each face of each frame.

    Keys: `frame` [K] int32 from 0, `face_id` [K] int32, `alpha` [K, 62] float32 (raw, in the 120-pixel crop of the
    row's `roi_box`, see `geometry.projection`; `pixel_origin` 0 of `evaluation.predictions`), `roi_box` [K, 4] float32
    (image pixels), `confidence` [K] float32, `times` [num_frames] float64 (seconds of each frame), `num_frames`,
    `frame_rate` (frames per second), `width`, `height`.
    """

    def __init__(self):
        self._rows: list[tuple[int, int, np.ndarray, np.ndarray, float]] = []

    def add(self, frame: int, face_id: int, face: Face) -> None:
        """Adds one face of one frame."""
        self._rows.append((frame, face_id, face.alpha, face.roi_box, face.confidence))

    def columns(self) -> dict[str, np.ndarray]:
        """The keys with one row a face."""
        frame, face_id, alpha, roi_box, confidence = list(zip(*self._rows)) or [(), (), (), (), ()]
        return {
            "frame": np.array(frame, np.int32),
            "face_id": np.array(face_id, np.int32),
            "alpha": np.array(alpha, np.float32).reshape(-1, 62),
            "roi_box": np.array(roi_box, np.float32).reshape(-1, 4),
            "confidence": np.array(confidence, np.float32),
        }


def write_alpha_log(
    path: os.PathLike | str,
    columns: Mapping[str, np.ndarray],
    *,
    times: np.ndarray,
    frame_rate: float,
    size: tuple[int, int],
) -> pathlib.Path:
    """Writes `AlphaLog.columns` atomically; times: of all frames, seconds; size (width, height). Raises OSError."""
    with io.BytesIO() as file:
        np.savez_compressed(
            file,
            **columns,
            times=np.asarray(times, np.float64),
            num_frames=len(times),
            frame_rate=frame_rate,
            width=size[0],
            height=size[1],
        )
        write_together({pathlib.Path(path): file.getvalue()})
    return pathlib.Path(path)
