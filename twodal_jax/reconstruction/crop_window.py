"""The window that a face's crop is cut from, how it moves between passes, and how consistent the passes are.

NumPy arrays of single faces. Frames as in `geometry.projection`: crop and image pixels, y down.
"""

import dataclasses

import jax
import numpy as np

from twodal_jax.detection.types import FaceBox
from twodal_jax.geometry import heatmap, projection
from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.io import images

# The side of a window changes by at most this factor in one pass, because a first estimate may be far off.
MAX_SCALE_CHANGE = 2.0
# A window has converged if it moves by less, as a share of its side and in degrees.
MAX_SHIFT, MAX_TURN = 0.1, 20.0
# A detector's smaller roll is within its own error and training's augmentation; the crop is then upright.
MIN_ROLL = 20.0
# The change of landmarks between two passes, in per cent of the face's size, at which the consistency is 1 / e.
CONSISTENCY_SCALE = 8.0


@dataclasses.dataclass(frozen=True)
class CropWindow:
    """The window of a crop: a square `roi_box` [4], rotated by `roll_degrees` clockwise about its centre."""

    roi_box: np.ndarray
    roll_degrees: float

    @classmethod
    def of(cls, box: FaceBox) -> "CropWindow":
        """The square window of a detection, upright for a roll of at most `MIN_ROLL`."""
        low, high = np.split(np.asarray(box.roi_box, np.float32), 2)
        centre, side = (low + high) / 2, float((high - low).mean())
        roll = float(box.roll_degrees) if abs(box.roll_degrees) > MIN_ROLL else 0.0
        return cls(np.concatenate([centre - side / 2, centre + side / 2]), roll)

    @property
    def turn(self) -> np.ndarray:
        """[2, 3] float32: pixels of the crop -> pixels of the upright crop of `roi_box`."""
        return np.float32(images.roll_matrix(self.roll_degrees))

    def from_image(self, points: np.ndarray) -> np.ndarray:
        """[P, 2] image pixels -> pixels of the crop."""
        back = np.float32(images.roll_matrix(-self.roll_degrees))
        return np.asarray(_image_to_turned(np.float32(points), self.roi_box, back))

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """[P, 2] pixels of the crop -> image pixels."""
        return np.asarray(_turned_to_image(np.float32(points), self.roi_box, self.turn))


@jax.jit
def _image_to_turned(points: jax.Array, roi_box: jax.Array, back: jax.Array) -> jax.Array:
    return projection.transform_points(projection.image_to_crop(points, roi_box), back)


@jax.jit
def _turned_to_image(points: jax.Array, roi_box: jax.Array, turn: jax.Array) -> jax.Array:
    return projection.crop_to_image(projection.transform_points(points, turn), roi_box)


def initial_landmarks(window: CropWindow, box: FaceBox, authors_mouth: bool = False) -> np.ndarray:
    """[18, 3] x, y, visible: a detection's landmarks in the crop's pixels; all 0 without landmarks.

    authors_mouth: take the mouth centre of 68 points as the authors' code does, for their network.
    """
    result = np.zeros((18, 3), np.float32)
    landmarks, visible = box.landmarks, box.visible
    if authors_mouth and box.landmarks68 is not None:
        landmarks, visible = np.asarray(heatmap.landmarks_18_from_68(box.landmarks68, authors_mouth=True)), None
    if landmarks is not None:
        visible = np.ones(18) if visible is None else np.asarray(visible, np.float32)
        known = (visible > 0) & np.isfinite(landmarks).all(axis=-1)
        result[known, :2] = window.from_image(np.nan_to_num(landmarks))[known]
        result[known, 2] = 1.0
    return result


def next_window(window: CropWindow, roll_degrees: float, landmarks68: np.ndarray, looseness: float = 1.0) -> CropWindow:
    """The window of the next pass: training's crop box of 68 landmarks, along the face's roll.

    Args:
      window: of this pass.
      roll_degrees: of the face in the image, clockwise as seen.
      landmarks68: [68, >=2], image pixels.
      looseness: training's crops are larger than the landmarks' own box by this factor.

    Returns:
      `window` itself if the landmarks give no finite, positive size.
    """
    # The box is measured in the face's own upright frame, as in training.
    upright = CropWindow(window.roi_box, float(roll_degrees))
    points = upright.from_image(landmarks68[:, :2])
    low, high = points.min(axis=0), points.max(axis=0)
    old_side = float(window.roi_box[2] - window.roi_box[0])
    side = looseness * np.sqrt(2.0) * float((high - low).max()) * old_side / CROP_SIZE
    if not np.isfinite(side) or side <= 0:
        return window
    side = float(np.clip(side, old_side / MAX_SCALE_CHANGE, old_side * MAX_SCALE_CHANGE))
    centre = upright.to_image((low + high)[None] / 2)[0]
    return CropWindow(np.concatenate([centre - side / 2, centre + side / 2]).astype(np.float32), upright.roll_degrees)


def has_converged(before: CropWindow, after: CropWindow) -> bool:
    """Whether a window hardly moved, so that the landmarks of its pass can be used as a heatmap."""
    side = float(before.roi_box[2] - before.roi_box[0])
    shift = float(np.abs(after.roi_box - before.roi_box).max())
    turn = abs((after.roll_degrees - before.roll_degrees + 180) % 360 - 180)
    return shift < MAX_SHIFT * side and turn < MAX_TURN


def pass_consistency(history: list[np.ndarray]) -> np.ndarray:
    """[B] from 0 to 1: how little the last pass changed the landmarks; 1 after a single pass.

    history: [B, 68, 3] for each pass, image pixels.
    """
    if len(history) < 2:
        return np.ones(len(history[-1]), np.float32)
    before, after = (points[..., :2] for points in history[-2:])
    size = np.sqrt(np.prod(np.ptp(after, axis=1), axis=-1))
    change = 100 * np.linalg.norm(after - before, axis=-1).mean(axis=-1) / np.maximum(size, 1e-6)
    score = np.exp(-((change / CONSISTENCY_SCALE) ** 2))
    return np.where(np.isfinite(score), score, 0.0).astype(np.float32)
