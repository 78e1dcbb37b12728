"""Head pose drawn on a photo as three arrows, the axes of the head."""

import cv2
import numpy as np

# Axes towards the subject's left, up, and out of the face, in the usual colours red, green and blue.
AXES_BGR = ((60, 60, 235), (70, 190, 60), (235, 140, 40))
_SHIFT = 4


def draw_axes(canvas: np.ndarray, origin: np.ndarray, rotation: np.ndarray, length: float) -> np.ndarray:
    """Draws three arrows, the farthest from the viewer first.

    Args:
      canvas: BGR uint8 [H, W, 3].
      origin: [2], canvas pixels, y down.
      rotation: [3, 3], head to viewer, y UP (`coefficients.Pose.rotation`).
      length: of an arrow, pixels.

    Returns:
      A new canvas.
    """
    canvas = np.ascontiguousarray(canvas).copy()
    thickness = max(1, round(length / 28))
    columns = np.asarray(rotation, np.float64).T  # each axis in the viewer's frame
    for axis in np.argsort(columns[:, 2]):
        tip = np.asarray(origin, np.float64) + length * columns[axis, :2] * [1.0, -1.0]
        start, end = (
            tuple(int(v) for v in np.round(np.clip(point, -8000, 8000) * 2**_SHIFT)) for point in (origin, tip)
        )
        for colour, width in (((30, 30, 30), thickness + 2), (AXES_BGR[axis], thickness)):
            cv2.line(canvas, start, end, colour, width, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, end, (thickness + 2) << _SHIFT, AXES_BGR[axis], -1, cv2.LINE_AA, _SHIFT)
    return canvas
