"""Landmarks of a reconstructed face in its photo: which of them are hidden, and marks for them. Needs no Numba."""

import numpy as np

from twodal_jax.rendering import drawing

# Distance behind the surface at which a landmark still counts as visible, as a share of the face's size.
_SLACK = 0.02


def draw_face_landmarks(photo, landmarks, visible=None, color=drawing.PREDICTED_BGR) -> np.ndarray:
    """Draws the landmarks of a face in a photo, with marks whose size follows that of the face.

    Args:
      photo: BGR uint8 [H, W, 3].
      landmarks: [68, >=2], pixels of the photo, y down.
      visible: bool [68] or None (all); hidden ones are rings with faint lines.
      color: BGR.

    Returns:
      A new picture.
    """
    unit = drawing.face_unit(landmarks)
    return drawing.draw_landmarks(photo, landmarks, scale=1, visible=visible, color=color, unit=unit)


def _hidden(vertices: np.ndarray, triangles: np.ndarray, indices: np.ndarray, slack: float) -> np.ndarray:
    """The landmarks with a triangle more than `slack` in front of them, as positions in `indices` (with repetitions).

    Plain NumPy: a compiled loop is no faster, and Numba takes 50 MB and 0.4 s to start.
    """
    points = vertices[indices]
    order = np.argsort(points[:, 0])
    x = vertices[:, 0].take(triangles.T)
    # Pairs of a triangle and a landmark whose x lies within it: few, because triangles are small.
    start = np.searchsorted(points[order, 0], np.minimum(np.minimum(x[0], x[1]), x[2]))
    stop = np.searchsorted(points[order, 0], np.maximum(np.maximum(x[0], x[1]), x[2]), side="right")
    counts = np.maximum(stop - start, 0)
    t = np.repeat(np.arange(len(triangles)), counts)
    p = order[np.repeat(start - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
    y, own = vertices[:, 1].take(triangles.T), points[p, 1]
    near = (np.minimum(np.minimum(y[0], y[1]), y[2])[t] <= own) & (np.maximum(np.maximum(y[0], y[1]), y[2])[t] >= own)
    t, p = t[near], p[near]
    others = (triangles[t] != indices[p, None]).all(axis=1)
    t, p = t[others], p[others]
    first, second, third = np.moveaxis(vertices[triangles[t]].astype(np.float64), 1, 0)
    (ax, ay, az), (bx, by, bz) = (second - first).T, (third - first).T
    x, y, z = (points[p] - first).T
    area = ax * by - ay * bx
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = (x * by - y * bx) / area, (ax * y - ay * x) / area
        return p[(u >= 0) & (v >= 0) & (u + v <= 1) & (u * az + v * bz > z + slack)]


def visible_landmarks(
    vertices: np.ndarray,
    triangles: np.ndarray,
    landmark_indices: np.ndarray,
    height: int | None = None,
    width: int | None = None,
) -> np.ndarray:
    """Visibility of landmarks: not hidden by the face, and inside the picture if its size is given.

    The line of sight of each landmark is tested against every triangle. Unlike a z-buffer this is independent of the
    size of the face in pixels, and exact at the outline, where the landmarks of a profile are.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer.
      triangles: [T, 3].
      landmark_indices: [P], vertices of the landmarks.
      height: of the picture, pixels, or None.
      width: of the picture, pixels, or None.

    Returns:
      bool [P]; False for landmarks that are not finite.
    """
    vertices = np.ascontiguousarray(vertices, np.float32)
    indices = np.ascontiguousarray(landmark_indices, np.int32)
    points = vertices[indices]
    visible = np.isfinite(points).all(axis=1)
    if height is not None and width is not None:
        limit = [width - 0.5, height - 0.5]
        visible &= (points[:, :2] >= -0.5).all(axis=1) & (points[:, :2] < limit).all(axis=1)
    finite = vertices[np.isfinite(vertices).all(axis=1)]
    if visible.any():
        slack = np.float32(_SLACK * np.ptp(finite, axis=0).max())
        visible[_hidden(vertices, np.asarray(triangles), indices, slack)] = False
    return visible
