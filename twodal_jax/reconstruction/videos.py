"""Reconstruction of a video or camera: overlay.mp4, alpha.npz and the animated faces.glb."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from twodal_jax.export import frames as export_frames
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.reconstruction import film
from twodal_jax.reconstruction.inputs import Camera, Video
from twodal_jax.reconstruction.one_euro import FaceSmoother
from twodal_jax.reconstruction.reconstructor import Reconstructor
from twodal_jax.reconstruction.scene import Surface
from twodal_jax.reconstruction.tracker import AlphaLog, TrackedFace, Tracker, TrackingSettings, write_alpha_log
from twodal_jax.reconstruction.video_io import CameraReader, VideoError, VideoReader, VideoWriter

OVERLAY, ALPHA, ANIMATION = "overlay.mp4", "alpha.npz", "faces.glb"
PASSES = 2  # the landmarks of the previous frame replace a first pass
_OPACITY = 0.55
_LARGE = 200  # pixels of a crop box from which one sample a pixel is enough for a moving picture


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
    one_shape: bool = True,
    animation: bool = True,
    frame: str = export_frames.IMAGE,
    texture_size: int = 1024,
    max_frames: int | None = None,
    started: Callable[[int], None] = lambda frames: None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[int, int]:
    """Tracks the faces of a video; writes overlay.mp4, with the video's sound, alpha.npz and faces.glb.

    Args:
      source: the video or camera; a camera is read until `max_frames` or Ctrl-C, then the outputs are completed.
      model: with the face detector.
      surface: of its morphable model.
      output_dir: gets a folder of the source's name.
      min_confidence: a new detection below it is not a face.
      smooth: smooth the faces over time, see `one_euro`.
      one_shape: each person has the shape that is the mean of all frames, weighted by confidence; the overlay has the
        mean of the frames so far.
      animation: whether to write faces.glb, see `film`.
      frame: of faces.glb, "image" or "model".
      texture_size: texels a side.
      max_frames: stop after so many.
      started: called with the number of frames, 0 if unknown.
      advance: called with 1 for each frame.

    Returns:
      The number of frames read, and the number of frames with a face.

    Raises:
      VideoError: the video cannot be read; or it ends early, or the overlay was not written or only without its sound,
        and the other files are written. OSError: alpha.npz was not written.
    """
    folder = output_dir / source.name
    with open_frames(source) as frames:
        folder.mkdir(parents=True, exist_ok=True)
        started(min(frames.num_frames, max_frames or frames.num_frames))
        tracker = Tracker(
            lambda image, boxes: model.reconstruct(image, boxes, passes=PASSES, mirror=False),
            model.detector,
            TrackingSettings(min_new_confidence=min_confidence),
        )
        smoother = _VideoSmoother(model.morphable_model, frames.height) if smooth else None
        shapes = film.RunningShape(model.morphable_model) if one_shape else None
        log, views, times, with_face = AlphaLog(), film.TextureViews(), [], 0
        failed: list[VideoError] = []
        with _overlay(folder / OVERLAY, frames, failed) as write_overlay, _Behind() as behind:
            # Numba takes 0.3 s to start; meanwhile the first face is found.
            behind(importlib.import_module, "twodal_jax.rendering.overlay")
            try:
                for image in frames:
                    faces = tracker(image)
                    for tracked in faces if animation else ():
                        views.see(image, tracked)
                    if smoother:
                        faces = [smoother(tracked, frames.time) for tracked in faces]
                    for tracked in faces:
                        log.add(len(times), tracked.face_id, tracked.face)
                    if shapes:
                        faces = [shapes(tracked) for tracked in faces]
                    changed = model if smoother or shapes else None
                    behind(_draw, write_overlay, frames.time, image, faces, surface, changed)
                    times.append(frames.time)
                    with_face += bool(faces)
                    advance(1)
                    if len(times) == max_frames:
                        break
            except KeyboardInterrupt:
                if not isinstance(source, Camera):
                    raise
        columns = log.columns()
        if one_shape:
            columns = film.with_shared_shapes(model.morphable_model, columns)
        write_alpha_log(
            folder / ALPHA, columns, times=times, frame_rate=frames.frame_rate, size=(frames.width, frames.height)
        )
        if animation:
            film.write_glb(
                folder / ANIMATION,
                columns,
                times,
                views,
                surface,
                frame=frame,
                image_height=frames.height,
                texture_size=texture_size,
            )
    if failed:
        raise failed[0]
    if isinstance(frames, VideoReader) and frames.damage:
        raise VideoError(f"{source.path}: ends early ({frames.damage}); {len(times)} frames could be used")
    return len(times), with_face


@contextlib.contextmanager
def _overlay(
    path: pathlib.Path, frames: VideoReader | CameraReader, failed: list[VideoError]
) -> Iterator[Callable[[np.ndarray, float], None]]:
    """Gives a function that writes the overlay of a frame and its time. A failure ends the overlay, not the film."""
    sound = frames if isinstance(frames, VideoReader) else None

    def write(image: np.ndarray, time: float) -> None:
        if not failed:
            try:
                writer.write(image, time)
            except VideoError as error:
                failed.append(error)

    try:
        with VideoWriter(path, (frames.width, frames.height), frames.frame_rate, sound) as writer:
            yield write
            if failed:
                raise failed[0]
    except VideoError as error:
        failed[:] = [error]


class _VideoSmoother:
    """A `FaceSmoother` for each face of a video; changes its coefficients and box, not its vertices."""

    def __init__(self, model: MorphableModel, image_height: int):
        self._model, self._height = model, image_height
        self._smoothers: dict[int, tuple[FaceSmoother, float]] = {}

    def __call__(self, tracked: TrackedFace, time: float) -> TrackedFace:
        smoother, before = self._smoothers.get(tracked.face_id, (FaceSmoother(self._model), time - 1))
        self._smoothers[tracked.face_id] = smoother, time
        alpha, roi_box = smoother(tracked.face.alpha, tracked.face.roi_box, self._height, time - before)
        return TrackedFace(tracked.face_id, dataclasses.replace(tracked.face, alpha=alpha, roi_box=roi_box))


class _Behind:
    """Runs calls in order on one other thread, while the caller prepares the next one. Errors reach the caller."""

    _MOST = 4  # calls that wait, each with its frame

    def __enter__(self) -> "_Behind":
        self._worker, self._calls = concurrent.futures.ThreadPoolExecutor(1), collections.deque()
        return self

    def __call__(self, function: Callable[..., None], *arguments) -> None:
        self._calls.append(self._worker.submit(function, *arguments))
        if len(self._calls) > self._MOST:
            self._calls.popleft().result()

    def __exit__(self, kind, *_) -> None:
        self._worker.shutdown()
        for call in () if kind else self._calls:
            call.result()


def _draw(
    write: Callable[[np.ndarray, float], None],
    time: float,
    image: np.ndarray,
    faces: list[TrackedFace],
    surface: Surface,
    changed: Reconstructor | None,
) -> None:
    """Writes a frame with its faces; `changed`: the model that makes their vertices anew, if coefficients changed."""
    from twodal_jax.rendering import overlay

    for face in (tracked.face for tracked in faces):
        vertices = changed.vertices(face.alpha, face.roi_box) if changed else face.vertices
        samples = 1 if face.roi_box[2] - face.roi_box[0] > _LARGE else 2
        image = overlay.draw_face(
            image, vertices, surface.triangles, surface.landmark_indices, opacity=_OPACITY, supersample=samples
        )
    write(image, time)
