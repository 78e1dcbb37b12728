"""Between a face's crop, which may be turned, and its picture; what several looks at a face say together.

Single faces, NumPy arrays in and out. Frames as in `projection`: crop and image pixels, y down.
"""

import dataclasses

import jax
import numpy as np

from twodal_jax.detection.types import FaceBox
from twodal_jax.geometry import heatmap, projection
from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.io import images

# A box is only widened or shrunk by this much from one look to the next: a first guess may be wild.
MOST_CHANGE = 2.0
# A window that moved less, as a share of its side and in degrees, was right before.
MOST_MOVED, MOST_TURNED = 0.1, 20.0
# A detector's turn below this is within its own error and what training's augmentation covers.
UPRIGHT_ENOUGH = 20.0
# The change of landmarks between two looks, in per cent of the face's size, at which confidence is a third.
DOUBTFUL_CHANGE = 8.0


@dataclasses.dataclass(frozen=True)
class CropWindow:
    """The window a crop is cut from: a square `roi_box` [4], turned `roll_degrees` clockwise about its centre."""

    roi_box: np.ndarray
    roll_degrees: float

    @classmethod
    def of(cls, box: FaceBox) -> "CropWindow":
        """The window of a found box, made square, and upright where the detector is not sure that it is turned."""
        low, high = np.split(np.asarray(box.roi_box, np.float32), 2)
        centre, side = (low + high) / 2, float((high - low).mean())
        roll = float(box.roll_degrees)
        roll = roll if abs(roll) > UPRIGHT_ENOUGH else 0.0
        return cls(np.concatenate([centre - side / 2, centre + side / 2]), roll)

    def from_image(self, points: np.ndarray) -> np.ndarray:
        """[P, 2] image pixels -> pixels of the crop."""
        back = np.float32(images.roll_matrix(-self.roll_degrees))
        return np.asarray(_image_to_turned(np.float32(points), self.roi_box, back))

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """[P, 2] pixels of the crop -> image pixels."""
        turn = np.float32(images.roll_matrix(self.roll_degrees))
        return np.asarray(_turned_to_image(np.float32(points), self.roi_box, turn))

    def upright_alpha(self, alpha: np.ndarray) -> np.ndarray:
        """alpha [62] of the turned crop -> the same face's in the upright crop of `roi_box`; exact."""
        return np.asarray(_transform_alpha(alpha, np.float32(images.roll_matrix(self.roll_degrees))))


_transform_alpha = jax.jit(projection.transform_alpha)


@jax.jit
def _image_to_turned(points: jax.Array, roi_box: jax.Array, back: jax.Array) -> jax.Array:
    return projection.transform_points(projection.image_to_crop(points, roi_box), back)


@jax.jit
def _turned_to_image(points: jax.Array, roi_box: jax.Array, turn: jax.Array) -> jax.Array:
    return projection.crop_to_image(projection.transform_points(points, turn), roi_box)


def initial_landmarks(window: CropWindow, box: FaceBox, authors_mouth: bool = False) -> np.ndarray:
    """[18, 3] x, y, visible: the landmarks a detector gave, in the crop's pixels; all 0 without any.

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


def roll_of(alpha: np.ndarray) -> float:
    """How far a face is turned in the picture, degrees clockwise: where its up axis points; alpha [62]."""
    pose = np.asarray(alpha)[:12].reshape(3, 4)
    return float(np.degrees(np.arctan2(pose[0, 1], pose[1, 1])))


def next_window(window: CropWindow, alpha: np.ndarray, landmarks68: np.ndarray, looseness: float = 1.0) -> CropWindow:
    """The window of the next look: the box training cuts around 68 landmarks, along the face's roll.

    Args:
      window: the window of this look. alpha: [62] found, upright. landmarks68: [68, >=2], image pixels.
      looseness: how much larger than the landmarks' own box training's crops were.

    Returns:
      `window` itself where the landmarks are of no use.
    """
    roll = roll_of(alpha)
    # The box is taken in the face's own upright frame, as training takes it from upright faces.
    upright = CropWindow(window.roi_box, roll)
    turned = upright.from_image(landmarks68[:, :2])
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = float(window.roi_box[2] - window.roi_box[0]) / CROP_SIZE
    old_side = CROP_SIZE * scale
    side = looseness * np.sqrt(2.0) * float((high - low).max()) * scale
    if not np.isfinite(side) or side <= 0:
        return window
    side = float(np.clip(side, old_side / MOST_CHANGE, old_side * MOST_CHANGE))
    centre = upright.to_image((low + high)[None] / 2)[0]
    box = np.concatenate([centre - side / 2, centre + side / 2]).astype(np.float32)
    return CropWindow(box, roll)


def has_converged(before: CropWindow, after: CropWindow) -> bool:
    """Whether a window hardly moved, so that landmarks found in it can be trusted as a heatmap."""
    side = float(before.roi_box[2] - before.roi_box[0])
    moved = float(np.abs(after.roi_box - before.roi_box).max())
    turned = abs((after.roll_degrees - before.roll_degrees + 180) % 360 - 180)
    return moved < MOST_MOVED * side and turned < MOST_TURNED


def pass_consistency(history: list[np.ndarray]) -> np.ndarray:
    """[B] from 0 to 1: how little the last look changed the landmarks of the one before; 1 with one look.

    history: [B, 68, 3] for each look, image pixels.
    """
    if len(history) < 2:
        return np.ones(len(history[-1]), np.float32)
    before, after = (points[..., :2] for points in history[-2:])
    size = np.sqrt(np.prod(np.ptp(after, axis=1), axis=-1))
    change = 100 * np.linalg.norm(after - before, axis=-1).mean(axis=-1) / np.maximum(size, 1e-6)
    score = np.exp(-((change / DOUBTFUL_CHANGE) ** 2))
    return np.where(np.isfinite(score), score, 0.0).astype(np.float32)
