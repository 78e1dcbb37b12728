"""Temporal smoothing of faces: the one-euro filter on the pose's parts, in the image's frame.

Alpha's pose refers to a crop whose box moves from frame to frame, so alpha is smoothed in the frame of the whole image
(`projection.alpha_crop_to_mat`) and converted back to the smoothed box. The pose is decomposed into
M = R P (polar decomposition: R a rotation, P symmetric, the scale) and the place of the face's centre c, M c + t. An
error of R leaves M c + t unchanged, but not t, the place of the model's origin.

    x_hat_t = a x_t + (1 - a) x_hat_{t-1},   a = 1 / (1 + rate / (2 pi f_c)),   f_c = f_min + beta |dx_hat / dt|

Slow changes are smoothed strongly, which removes jitter; fast ones weakly, which keeps the lag short.
Source: G. Casiez et al., "1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
Systems", CHI 2012.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from twodal_jax.geometry import coefficients, projection
from twodal_jax.geometry.morphable_model import MorphableModel

_to_image = jax.jit(projection.alpha_crop_to_mat)
_to_crop = jax.jit(projection.alpha_mat_to_crop)


class OneEuroFilter:
    """The one-euro filter of an array over time.

    Args:
      min_cutoff: Hz, the cutoff at rest; lower is smoother.
      beta: Hz per unit of speed; higher lags less in motion.
      d_cutoff: Hz, the cutoff of the speed itself.
      together: one speed, the norm, for the whole array; otherwise one for each number.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 0.0, d_cutoff: float = 1.0, together: bool = False):
        self.min_cutoff, self.beta, self.d_cutoff, self.together = min_cutoff, beta, d_cutoff, together
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, seconds: float) -> np.ndarray:
        """The smoothed value, `seconds` after the previous call (ignored by the first)."""
        value = np.asarray(value, np.float64)
        if self._value is None:
            self._value = value
            return value
        speed = (value - self._value) / seconds
        self._speed = self._speed + _gain(self.d_cutoff, seconds) * (speed - self._speed)
        fast = np.linalg.norm(self._speed) if self.together else np.abs(self._speed)
        self._value = self._value + _gain(self.min_cutoff + self.beta * fast, seconds) * (value - self._value)
        return self._value

    def keep(self, value: np.ndarray) -> None:
        """Replaces the smoothed value, for one with a constraint such as a rotation."""
        self._value = np.asarray(value, np.float64)


def _gain(cutoff: np.ndarray | float, seconds: float) -> np.ndarray | float:
    turn = 2 * np.pi * cutoff * seconds
    return turn / (turn + 1)


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """Strength of the smoothing: (min_cutoff in Hz, beta in Hz per unit of speed) of each part.

    Units of speed, per second: `place` in sides of the crop, `size` in shares of it, `turn` about in radians,
    `expression` and `shape` in standard deviations. A head keeps its shape, so `shape` changes slowly.
    """

    place: tuple[float, float] = (1.5, 10.0)
    size: tuple[float, float] = (1.0, 3.0)
    turn: tuple[float, float] = (1.5, 1.0)
    expression: tuple[float, float] = (1.5, 0.3)
    shape: tuple[float, float] = (0.2, 0.0)


class FaceSmoother:
    """Smooths the coefficients of one face, frame after frame.

    Args:
      model: gives the units of shape and expression (whitening), and the face's centre (mean of its landmarks).
      smoothness: see `Smoothness`.
    """

    def __init__(self, model: MorphableModel, smoothness: Smoothness = Smoothness()):
        self._std = np.asarray(model.alpha_std, np.float64)[coefficients.NUM_POSE :]
        self._middle = np.asarray(model.landmark_mean, np.float64).mean(axis=1)
        self._side: float | None = None
        self._unit = 1.0
        self._filters = {
            field.name: OneEuroFilter(*getattr(smoothness, field.name), together=field.name != "expression")
            for field in dataclasses.fields(smoothness)
        }
        self._box = OneEuroFilter(*smoothness.place, together=True)

    def __call__(
        self, alpha: np.ndarray, roi_box: np.ndarray, image_height: int, seconds: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Smooths one frame: alpha [62] raw in its crop, roi_box [4], seconds since the previous frame.

        Returns:
          alpha [62] and roi_box [4], float32, smoothed; alpha in the crop of the smoothed box.
        """
        image = np.asarray(_to_image(alpha, roi_box, float(image_height)), np.float64)
        pose, rest = image[:12].reshape(3, 4), image[12:] / self._std
        rotation, size = polar(pose[:, :3])
        if self._side is None:
            self._side, self._unit = float(roi_box[2] - roi_box[0]), np.linalg.norm(size) or 1.0
        turn = self._filters["turn"]
        rotation, _ = polar(turn(rotation, seconds))
        turn.keep(rotation)
        size = self._filters["size"](size / self._unit, seconds) * self._unit
        place = pose[:, :3] @ self._middle + pose[:, 3]
        place = self._filters["place"](place / self._side, seconds) * self._side
        shape = self._filters["shape"](rest[: coefficients.NUM_SHAPE], seconds)
        expression = self._filters["expression"](rest[coefficients.NUM_SHAPE :], seconds)
        matrix = rotation @ size
        pose = np.column_stack([matrix, place - matrix @ self._middle])
        smooth = np.concatenate([pose.ravel(), np.concatenate([shape, expression]) * self._std])
        box = self._box(np.asarray(roi_box) / self._side, seconds) * self._side
        back = _to_crop(smooth.astype(np.float32), box.astype(np.float32), float(image_height))
        return np.asarray(back, np.float32), box.astype(np.float32)


def polar(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., 3, 3] -> the nearest rotation and a symmetric matrix; the matrix is their product."""
    left, _, right = np.linalg.svd(matrix)
    left[..., -1] *= np.sign(np.linalg.det(left @ right))[..., None]
    rotation = left @ right
    return rotation, np.swapaxes(rotation, -1, -2) @ matrix
