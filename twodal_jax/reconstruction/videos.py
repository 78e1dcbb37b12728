"""Reconstruction of a video or camera: overlay.mp4 and alpha.npz."""

import pathlib
from collections.abc import Callable

import numpy as np

from twodal_jax.reconstruction.inputs import Camera, Video
from twodal_jax.reconstruction.one_euro import FaceSmoother
from twodal_jax.reconstruction.reconstructor import Reconstructor
from twodal_jax.reconstruction.scene import Surface
from twodal_jax.reconstruction.tracker import AlphaLog, TrackedFace, Tracker, TrackingSettings
from twodal_jax.reconstruction.video_io import CameraReader, VideoReader, VideoWriter

OVERLAY, ALPHA = "overlay.mp4", "alpha.npz"
PASSES = 2  # the landmarks of the previous frame replace a first pass
_OPACITY = 0.55


def open_frames(source: Video | Camera) -> VideoReader | CameraReader:
    """The reader of a video's or camera's frames. Raises VideoError."""
    return CameraReader(source.index) if isinstance(source, Camera) else VideoReader(source.path)


def reconstruct_video(
    source: Video | Camera,
    model: Reconstructor,
    surface: Surface,
    output_dir: pathlib.Path,
    *,
    min_confidence: float = TrackingSettings.min_new_confidence,
    smooth: bool = False,
    max_frames: int | None = None,
    started: Callable[[int], None] = lambda frames: None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[int, int]:
    """Tracks the faces of a video; writes overlay.mp4, with the video's sound, and alpha.npz.

    Args:
      source: the video or camera; a camera is read until `max_frames` or Ctrl-C, then the outputs are completed.
      model: with the face detector.
      surface: of its morphable model.
      output_dir: gets a folder of the source's name.
      min_confidence: a new detection below it is not a face.
      smooth: smooth the faces over time, see `one_euro`.
      max_frames: stop after so many.
      started: called with the number of frames, 0 if unknown.
      advance: called with 1 for each frame.

    Returns:
      The number of frames read, and the number of frames with a face.

    Raises:
      VideoError: the video cannot be read, or the overlay not written. OSError: alpha.npz was not written.
    """
    folder = output_dir / source.name
    with open_frames(source) as frames:
        folder.mkdir(parents=True, exist_ok=True)
        started(min(frames.num_frames, max_frames or frames.num_frames))
        size = frames.width, frames.height
        tracker = Tracker(
            lambda image, boxes: model.reconstruct(image, boxes, passes=PASSES),
            model.detector,
            TrackingSettings(min_new_confidence=min_confidence),
        )
        smoother = _VideoSmoother(model, frames.height, frames.frame_rate) if smooth else None
        log, count, with_face = AlphaLog(), 0, 0
        sound = frames if isinstance(frames, VideoReader) else None
        with VideoWriter(folder / OVERLAY, size, frames.frame_rate, sound) as writer:
            try:
                for image in frames:
                    faces = tracker(image)
                    if smoother:
                        faces = [smoother(tracked) for tracked in faces]
                    writer.write(_drawn(image, faces, surface))
                    for tracked in faces:
                        log.add(count, tracked.face_id, tracked.face)
                    count, with_face = count + 1, with_face + bool(faces)
                    advance(1)
                    if count == max_frames:
                        break
            except KeyboardInterrupt:
                if not isinstance(source, Camera):
                    raise
        log.write(folder / ALPHA, num_frames=count, frame_rate=frames.frame_rate, size=size)
    return count, with_face


class _VideoSmoother:
    """A `FaceSmoother` for each face of a video."""

    def __init__(self, model: Reconstructor, image_height: int, frame_rate: float):
        self._model, self._height, self._seconds = model, image_height, 1 / frame_rate
        self._smoothers: dict[int, FaceSmoother] = {}

    def __call__(self, tracked: TrackedFace) -> TrackedFace:
        if tracked.face_id not in self._smoothers:
            self._smoothers[tracked.face_id] = FaceSmoother(self._model.morphable_model)
        smoother = self._smoothers[tracked.face_id]
        alpha, roi_box = smoother(tracked.face.alpha, tracked.face.roi_box, self._height, self._seconds)
        return TrackedFace(tracked.face_id, self._model.face_of(alpha, roi_box, tracked.face.confidence))


def _drawn(image: np.ndarray, faces: list[TrackedFace], surface: Surface) -> np.ndarray:
    from twodal_jax.rendering import overlay

    for tracked in faces:
        image = overlay.draw_face(
            image, tracked.face.vertices, surface.triangles, surface.landmark_indices, opacity=_OPACITY
        )
    return image
