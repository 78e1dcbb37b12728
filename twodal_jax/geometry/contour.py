"""Contour landmarks as annotators of 2D photos mark them: on the visible outline of the face.

The jaw's landmarks 0 to 16 are fixed vertices. On the side that turns away the head hides them, and an annotator marks
the outline of the cheek instead. Source: Zhu et al., High-Fidelity Pose and Expression Normalization (CVPR 2015), which
moves such a landmark along a line of vertices from the jaw to the front of the face.
"""

import numpy as np

from twodal_jax.geometry.morphable_model import MorphableModel

JAW = 17  # the first of the 68
_NOSE = 29
_WIDTH = 0.012  # half the width of a line, share of the face's size
_INNERMOST = 0.4  # share of the way from the nose to the jaw at which a line begins


def contour_lines(model: MorphableModel) -> tuple[np.ndarray, np.ndarray]:
    """Line of vertices in front of each jaw landmark, as seen from the front on the mean shape.

    Returns:
      int [17, K] vertices of each line, padded with its landmark, and float [17, 2], the unit direction from the nose
      to the landmark, model frame, y up.
    """
    mean, index = np.asarray(model.mean, np.float64), np.asarray(model.landmark_indices)
    jaw, nose = mean[:, index[:JAW]], mean[:2, index[_NOSE]]
    size = np.ptp(mean[:2, index], axis=1).max()
    way = jaw[:2] - nose[:, None]
    length = np.linalg.norm(way, axis=0)
    direction = (way / length).T
    offset = mean[:2] - nose[:, None]
    lines = []
    for i in range(JAW):
        along, across = direction[i] @ offset, direction[i, ::-1] * [-1, 1] @ offset
        near = (np.abs(across) < _WIDTH * size) & (along > _INNERMOST * length[i]) & (mean[2] > jaw[2, i])
        lines.append(np.append(index[i], np.flatnonzero(near)))
    longest = max(map(len, lines))
    return np.stack([np.pad(line, (0, longest - len(line)), constant_values=line[0]) for line in lines]), direction


def contour_landmarks(line_points: np.ndarray, directions: np.ndarray, roll_degrees: float) -> np.ndarray:
    """Outermost point of each line: the jaw landmark itself where the face is seen from the front.

    Args:
      line_points: [17, K, >=2], vertices of `contour_lines`, pixels, y down; the landmarks come first.
      directions: [17, 2], of `contour_lines`.
      roll_degrees: of the head in the picture, in the convention of `coefficients.rotation_from_euler`.

    Returns:
      [17, 2], pixels, y down.
    """
    cos, sin = np.cos(np.radians(roll_degrees)), np.sin(np.radians(roll_degrees))
    outward = directions @ np.array([[cos, sin], [-sin, cos]]).T * [1, -1]
    points = line_points[..., :2]
    best = np.einsum("jkc,jc->jk", points, outward).argmax(axis=1)
    return points[np.arange(JAW), best]
