"""What a reconstruction is, and where a face may be. NumPy arrays on the host; no device is touched here."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FaceBox:
    """Where a face may be in a picture, before the network has seen it.

    Attributes:
      roi_box: [4] float32 sx, sy, ex, ey, the square the crop is cut from, image pixels, y down.
      roll_degrees: how far the face is turned in the picture's plane, clockwise as one sees it; the crop is
        cut upright along it.
      score: of the detector, higher is surer; 1 for a given box.
      landmarks: [18, 2] or None, image pixels, the heatmap's landmarks if somebody knows them.
      visible: [18] or None, 1 where a landmark is known.
      landmarks68: [68, 2] or None, what `landmarks` was made of, NaN where unknown.
    """

    roi_box: np.ndarray
    roll_degrees: float = 0.0
    score: float = 1.0
    landmarks: np.ndarray | None = None
    visible: np.ndarray | None = None
    landmarks68: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Pose:
    """Head pose in degrees, as 300W-LP has it: R = R_x(pitch) R_y(yaw) R_z(roll). yaw > 0: the face looks to the
    viewer's left; pitch > 0: up; roll > 0: the head is turned clockwise as the viewer sees it.
    """

    yaw: float
    pitch: float
    roll: float


@dataclasses.dataclass(frozen=True)
class Face:
    """One reconstructed face. Image pixels, y down, the first pixel's centre at (0, 0); z grows towards the
    viewer and has the scale of x and y.

    Attributes:
      alpha: [62] float32, raw coefficients in the frame of the 120-pixel crop of `roi_box` (`projection`).
      roi_box: [4] float32 sx, sy, ex, ey.
      landmarks68: [68, 3] float32. vertices: [N, 3] float32.
      pose: in degrees.
      confidence: 0 to 1, how well the second look agrees with the first, times the detector's say; no
        probability.
    """

    alpha: np.ndarray
    roi_box: np.ndarray
    landmarks68: np.ndarray
    vertices: np.ndarray
    pose: Pose
    confidence: float

    @property
    def box(self) -> np.ndarray:
        """`roi_box`."""
        return self.roi_box
