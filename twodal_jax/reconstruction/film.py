"""The faces of a film: one shape for each person, and one animatable GLB."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from twodal_jax.detection.types import Face
from twodal_jax.geometry import coefficients
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.reconstruction import animatable
from twodal_jax.reconstruction.scene import Scene, Surface
from twodal_jax.reconstruction.tracker import TrackedFace

_MARGIN = 0.1  # around a face that is kept for its texture, as a share of its size

_INNER_LIPS, _NOSE_AND_CHIN = (62, 66), (33, 8)  # of the 68 landmarks
_OPEN_MOUTH = 10.0  # a mouth open by a tenth of the distance from nose to chin halves a frame's score


class RunningShape:
    """Gives a face the mean shape of its frames so far, weighted by confidence; for pictures drawn during a film.

    It changes the coefficients, not the vertices.
    """

    def __init__(self, model: MorphableModel):
        self._model = model
        self._sums: dict[int, tuple[np.ndarray, float]] = {}

    def __call__(self, tracked: TrackedFace) -> TrackedFace:
        """The next frame of a face."""
        face = tracked.face
        weight = max(face.confidence, 1e-6)
        shape, total = self._sums.get(tracked.face_id, (np.zeros(coefficients.NUM_SHAPE), 0.0))
        shape, total = shape + weight * coefficients.split(face.alpha)[1], total + weight
        self._sums[tracked.face_id] = shape, total
        alpha = animatable.with_shape(self._model, face.alpha[None], shape / total)[0]
        return TrackedFace(tracked.face_id, dataclasses.replace(face, alpha=alpha))


def with_shared_shapes(model: MorphableModel, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`AlphaLog.columns` in which all rows of one face have the same shape."""
    alpha = columns["alpha"].copy()
    for number in np.unique(columns["face_id"]):
        rows = columns["face_id"] == number
        alpha[rows] = animatable.with_shared_shape(model, alpha[rows], columns["confidence"][rows])
    return dict(columns) | {"alpha": alpha}


class TextureViews:
    """For each face of a film, the picture of the frame that shows it best.

    It is large, frontal and certain there, and its mouth is closed: teeth in the texture would lie on closed lips.
    """

    def __init__(self):
        self._best: dict[int, tuple[float, np.ndarray, Face]] = {}

    def see(self, image: np.ndarray, tracked: TrackedFace) -> None:
        """Looks at one face of a frame, BGR uint8 [H, W, 3]."""
        face = tracked.face
        angle = math.cos(math.radians(face.pose.yaw)) * math.cos(math.radians(face.pose.pitch))
        points = face.landmarks68[:, :2]
        lips, nose_to_chin = (np.linalg.norm(points[a] - points[b]) for a, b in (_INNER_LIPS, _NOSE_AND_CHIN))
        closed = 1 / (1 + _OPEN_MOUTH * lips / max(float(nose_to_chin), 1e-6))
        score = face.confidence * float(face.roi_box[2] - face.roi_box[0]) * angle * closed
        if score <= self._best.get(tracked.face_id, (-1.0,))[0]:
            return
        low, high = face.vertices[:, :2].min(axis=0), face.vertices[:, :2].max(axis=0)
        margin = _MARGIN * (high - low)
        left, top = np.clip(low - margin, 0, None).astype(int)
        right, bottom = np.clip(high + margin, 0, image.shape[1::-1]).astype(int) + 1
        part = image[top:bottom, left:right].copy()
        if part.size:
            moved = dataclasses.replace(face, vertices=face.vertices - np.float32([left, top, 0]))
            self._best[tracked.face_id] = score, part, moved

    def texture(self, face_id: int, surface: Surface, size: int) -> np.ndarray | None:
        """BGR uint8 [size, size, 3]; None for a face that was never in a picture."""
        if face_id not in self._best:
            return None
        _, part, face = self._best[face_id]
        return Scene("", part, [face], surface, texture_size=size).textures[0][0]


def write_glb(
    path: pathlib.Path,
    columns: Mapping[str, np.ndarray],
    times: np.ndarray,
    views: TextureViews,
    surface: Surface,
    *,
    frame: str,
    image_height: int,
    texture_size: int,
) -> None:
    """Writes the faces of a film, each with the track of its pose and expression; without a face, deletes the file.

    Between frames without a face, its pose and expression are interpolated. Before its first and after its last frame
    it rests.

    Args:
      path: NAME.glb.
      columns: `AlphaLog.columns`; a face has the mean shape of its rows.
      times: of all frames, seconds.
      views: of its faces.
      surface: of the morphable model.
      frame: "image" or "model".
      image_height: pixels.
      texture_size: texels a side.
    """
    columns = with_shared_shapes(surface.model, columns)
    alpha, boxes = columns["alpha"], columns["roi_box"]
    found = []
    for number in np.unique(columns["face_id"]):
        rows = np.flatnonzero(columns["face_id"] == number)
        # glTF wants increasing times in float32; of two frames at one time, the first counts.
        at, first = np.unique(np.maximum(times, 0)[columns["frame"][rows]].astype(np.float32), return_index=True)
        rows, texture = rows[first], views.texture(int(number), surface, texture_size)
        name = f"face_{number}"
        mesh = animatable.glb_mesh(name, alpha[rows], boxes[rows], surface, frame, image_height, texture, at)
        found.append(mesh)
    if found:
        animatable.write(path, found, surface, frame, animatable.metres_per_pixel(alpha, boxes, surface))
    else:
        path.unlink(missing_ok=True)
