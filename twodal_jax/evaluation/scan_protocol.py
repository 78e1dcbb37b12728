"""Reconstruction against scans, as on Florence: renderings in many poses, ICP, error by yaw.

The camera is orthographic and known, so that a prediction in a rendering's pixels is brought back into
the scan's own frame and unit before ICP (rigid, no scale) makes up for what is left. The error of a
reconstruction is the mean distance of its vertices to their nearest scan points, in per cent of the
scan's 3D outer interocular distance.
"""

import dataclasses
import itertools

import numpy as np

from twodal_jax.evaluation import icp

IMAGE_SIZE = 450
FACE_SHARE = 0.55  # of the picture's side: the diameter of the face's sphere
FACE_RADIUS_MM = 95.0  # around the nose tip: the usual crop of a face scan
# (pitches, yaws) in degrees. The paper gives the pitches and the yaws' ends; VRN's author all of it.
PROTOCOLS = {
    "paper": ((-15.0, 20.0, 25.0), (-80.0, -40.0, 0.0, 40.0, 80.0)),
    "vrn": ((-15.0, -20.0, -25.0), (-80.0, -40.0, 0.0, 40.0, 80.0)),
}


@dataclasses.dataclass(frozen=True)
class Camera:
    """Scan frame (y up) -> image pixels (y down, z towards the viewer), orthographic.

    Attributes:
      rotation: [3, 3]. scale: pixels per unit. centre: [3], the scan's point that lands in the middle.
    """

    rotation: np.ndarray
    scale: float
    centre: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] scan frame -> [N, 3] image pixels."""
        turned = (points - self.centre) @ self.rotation.T * self.scale
        return turned * [1.0, -1.0, 1.0] + [IMAGE_SIZE / 2, IMAGE_SIZE / 2, 0.0]

    def unproject(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `project`; an unknown depth offset of the points stays in it."""
        turned = (points - [IMAGE_SIZE / 2, IMAGE_SIZE / 2, 0.0]) * [1.0, -1.0, 1.0] / self.scale
        return turned @ self.rotation + self.centre


def poses(protocol: str) -> list[tuple[float, float]]:
    """(pitch, yaw) of every rendering, degrees."""
    pitches, yaws = PROTOCOLS[protocol]
    return list(itertools.product(pitches, yaws))


def nose_tip(vertices: np.ndarray) -> np.ndarray:
    """[3]: the foremost point of a scan that faces +z, among those near its middle (hair and shoulders
    may reach farther forward at the rim).
    """
    middle, size = np.median(vertices[:, :2], axis=0), np.ptp(vertices[:, :2], axis=0)
    near = (np.abs(vertices[:, :2] - middle) < 0.25 * size).all(axis=1)
    candidates = vertices[near] if near.any() else vertices
    return candidates[candidates[:, 2].argmax()]


def face_part(vertices: np.ndarray, radius: float) -> np.ndarray:
    """[N] bool: the points within `radius` of the nose tip."""
    return np.linalg.norm(vertices - nose_tip(vertices), axis=1) <= radius


def make_camera(vertices: np.ndarray, pitch: float, yaw: float, radius: float) -> Camera:
    """Looks at the middle of the face from a pose in degrees; pitch > 0 looks up, yaw > 0 to the right
    of the picture.
    """
    p, y = np.deg2rad([pitch, yaw])
    around_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    around_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    centre = vertices[face_part(vertices, radius)].mean(axis=0)
    return Camera(around_x @ around_y, FACE_SHARE * IMAGE_SIZE / (2 * radius), centre)


def roi_box(vertices: np.ndarray, camera: Camera, radius: float) -> np.ndarray:
    """[4] float32: the square crop around the projected face, as around landmarks."""
    face = camera.project(vertices[face_part(vertices, radius)])[:, :2]
    low, high = face.min(axis=0), face.max(axis=0)
    half = 1.15 * (high - low).max() / 2
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def reconstruction_error(predicted: np.ndarray, camera: Camera, target: icp.Target, interocular: float) -> float:
    """Error in per cent of one prediction.

    Args:
      predicted: [M, 3], pixels of the rendering, y down, z towards the viewer (any offset).
      target: the scan. interocular: 3D distance of its outer eye corners, the scan's unit (`scan_eyes` measures it
        where nobody marked them).
    """
    points = camera.unproject(np.asarray(predicted, np.float64))
    # Depth has no common origin: the foremost parts are put level first.
    depth = camera.rotation[2]
    gap = np.quantile(target.points @ depth, 0.98) - np.quantile(points @ depth, 0.98)
    points = points + gap * depth
    return icp.reconstruction_error(points, target, interocular)
