"""Reconstruction error on scans, as on Florence: renderings in many poses, ICP, error by yaw.

The camera is orthographic and known, so a prediction in pixels of a rendering is transformed back to the scan's frame
and unit before the rigid ICP, which fits no scale. The error is the mean distance of the predicted vertices to their
nearest scan points, in per cent of the scan's 3D outer interocular distance.
"""

import dataclasses
import itertools

import numpy as np

from twodal_jax.evaluation import icp

IMAGE_SIZE = 450
FACE_SHARE = 0.55  # diameter of the face's sphere relative to the image's side
FACE_RADIUS_MM = 95.0  # around the nose tip: the usual crop of a face scan
# (pitches, yaws) in degrees. The paper gives the pitches and the extreme yaws; VRN's author gives all of them.
PROTOCOLS = {
    "paper": ((-15.0, 20.0, 25.0), (-80.0, -40.0, 0.0, 40.0, 80.0)),
    "vrn": ((-15.0, -20.0, -25.0), (-80.0, -40.0, 0.0, 40.0, 80.0)),
}


@dataclasses.dataclass(frozen=True)
class Camera:
    """Scan frame (y up) -> image pixels (y down, z towards the viewer), orthographic.

    Attributes:
      rotation: [3, 3].
      scale: pixels per unit of the scan.
      centre: [3], the point of the scan that is projected to the centre of the image.
    """

    rotation: np.ndarray
    scale: float
    centre: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3], scan frame -> image pixels."""
        turned = (points - self.centre) @ self.rotation.T * self.scale
        return turned * [1.0, -1.0, 1.0] + [IMAGE_SIZE / 2, IMAGE_SIZE / 2, 0.0]

    def unproject(self, points: np.ndarray) -> np.ndarray:
        """Inverse of `project`; an unknown depth offset of the points remains."""
        turned = (points - [IMAGE_SIZE / 2, IMAGE_SIZE / 2, 0.0]) * [1.0, -1.0, 1.0] / self.scale
        return turned @ self.rotation + self.centre


def poses(protocol: str) -> list[tuple[float, float]]:
    """(pitch, yaw) of every rendering, degrees."""
    pitches, yaws = PROTOCOLS[protocol]
    return list(itertools.product(pitches, yaws))


def nose_tip(vertices: np.ndarray) -> np.ndarray:
    """Nose tip [3]: the foremost point of a scan facing +z, near its middle.

    Points at the rim are excluded, because hair and shoulders may be farther forward.
    """
    middle, size = np.median(vertices[:, :2], axis=0), np.ptp(vertices[:, :2], axis=0)
    near = (np.abs(vertices[:, :2] - middle) < 0.25 * size).all(axis=1)
    candidates = vertices[near] if near.any() else vertices
    return candidates[candidates[:, 2].argmax()]


def face_part(vertices: np.ndarray, radius: float) -> np.ndarray:
    """Whether each point is within `radius` of the nose tip: bool [N]."""
    return np.linalg.norm(vertices - nose_tip(vertices), axis=1) <= radius


def make_camera(vertices: np.ndarray, pitch: float, yaw: float, radius: float) -> Camera:
    """Camera centred on the face, with the head at a pose in degrees: pitch > 0 is up, yaw > 0 right in the image."""
    p, y = np.deg2rad([pitch, yaw])
    around_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    around_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    centre = vertices[face_part(vertices, radius)].mean(axis=0)
    return Camera(around_x @ around_y, FACE_SHARE * IMAGE_SIZE / (2 * radius), centre)


def roi_box(vertices: np.ndarray, camera: Camera, radius: float) -> np.ndarray:
    """Square crop box [4] float32 around the projected face, as around landmarks."""
    face = camera.project(vertices[face_part(vertices, radius)])[:, :2]
    low, high = face.min(axis=0), face.max(axis=0)
    half = 1.15 * (high - low).max() / 2
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def reconstruction_error(predicted: np.ndarray, camera: Camera, target: icp.Target, interocular: float) -> float:
    """Error of one prediction in per cent.

    Args:
      predicted: [M, 3], pixels of the rendering, y down, z towards the viewer with any offset.
      camera: of the rendering.
      target: the scan.
      interocular: 3D distance of the scan's outer eye corners, in its unit (`scan_eyes`, if they are not annotated).
    """
    points = camera.unproject(np.asarray(predicted, np.float64))
    # The depths have no common origin: the foremost parts are aligned first.
    depth = camera.rotation[2]
    gap = np.quantile(target.points @ depth, 0.98) - np.quantile(points @ depth, 0.98)
    points = points + gap * depth
    return icp.reconstruction_error(points, target, interocular)
