"""Types of a detection and of a reconstructed face. NumPy arrays on the host."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FaceBox:
    """A detection: where a face may be in an image.

    Attributes:
      roi_box: [4] float32 sx, sy, ex, ey, the square to crop, image pixels, y down.
      roll_degrees: in-plane rotation of the face, clockwise as seen; the crop follows it.
      score: of the detector, higher is more certain; 1 for a given box.
      landmarks: [18, 2] or None, image pixels, the heatmap's landmarks where they are known.
      visible: [18] or None, 1 where a landmark is known.
      landmarks68: [68, 2] or None, the source of `landmarks`, NaN where unknown.
    """

    roi_box: np.ndarray
    roll_degrees: float = 0.0
    score: float = 1.0
    landmarks: np.ndarray | None = None
    visible: np.ndarray | None = None
    landmarks68: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Pose:
    """Head pose in degrees, as in 300W-LP: R = R_x(pitch) R_y(yaw) R_z(roll).

    yaw > 0: the face looks to the viewer's left; pitch > 0: up; roll > 0: clockwise as the viewer sees it.
    """

    yaw: float
    pitch: float
    roll: float


@dataclasses.dataclass(frozen=True)
class Face:
    """A reconstructed face.

    Image pixels, y down, the first pixel's centre at (0, 0); z grows towards the viewer, in the scale of x and y.

    Attributes:
      alpha: [62] float32, raw coefficients in the frame of the 120-pixel crop of `roi_box` (`geometry.projection`).
      roi_box: [4] float32 sx, sy, ex, ey.
      landmarks68: [68, 3] float32. vertices: [N, 3] float32.
      pose: in degrees.
      confidence: 0 to 1, the consistency of the last two passes times the detector's score; not a probability.
    """

    alpha: np.ndarray
    roi_box: np.ndarray
    landmarks68: np.ndarray
    vertices: np.ndarray
    pose: Pose
    confidence: float
