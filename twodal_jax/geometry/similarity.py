"""The similarity between sets of corresponding points. NumPy, float64."""

from typing import NamedTuple

import numpy as np


class Similarity(NamedTuple):
    """The motion x -> scale * rotation @ x + translation; `...` are the axes of several motions.

    Attributes:
      scale: [...].
      rotation: [..., 3, 3].
      translation: [..., 3].
    """

    scale: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Moved points [..., P, 3]."""
        turned = points @ np.swapaxes(self.rotation, -1, -2)
        return np.asarray(self.scale)[..., None, None] * turned + self.translation[..., None, :]

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Points [..., P, 3] in the frame before the motion."""
        return (points - self.translation[..., None, :]) @ self.rotation / np.asarray(self.scale)[..., None, None]


def similarity(source: np.ndarray, target: np.ndarray, *, scaled: bool = True) -> Similarity:
    """The motion that brings points [..., P, 3] nearest to others by least squares, without a reflection.

    scaled: False keeps the scale 1.
    Source: Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, 1991.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    centre, aim = source.mean(axis=-2), target.mean(axis=-2)
    source = source - centre[..., None, :]
    u, sizes, vt = np.linalg.svd(np.swapaxes(target - aim[..., None, :], -1, -2) @ source)
    signs = np.ones_like(sizes)
    signs[..., 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * signs[..., None, :]) @ vt
    scale = (sizes * signs).sum(axis=-1) / np.maximum((source**2).sum(axis=(-1, -2)), 1e-300)
    scale = scale if scaled else np.ones_like(scale)
    return Similarity(scale, rotation, aim - scale[..., None] * np.einsum("...ij,...j->...i", rotation, centre))
