"""Protocol of the NoW challenge: distances of a scan's face from a reconstructed mesh, after alignment.

The scan is cut to a ball around the face. The mesh is moved (rotation, translation and, unless metrical, scale) onto
seven landmarks, and then so that the sum of squared distances of the scan's points from its surface is least. The error
is the distance of each point. Distances are in the scan's unit, millimetres.

Source: Sanyal et al., Learning to Regress 3D Face Shape and Expression from an Image without 3D Supervision, CVPR 2019,
and the challenge's evaluation, github.com/soubhiksanyal/now_evaluation, for the ball and the order of the landmarks:
outer and inner corner of the right eye, inner and outer of the left, base of the nose, right and left mouth corner.
"""

import numpy as np

from twodal_jax.evaluation.surface_distance import Surface
from twodal_jax.geometry.similarity import Similarity, similarity

LANDMARKS = (36, 39, 42, 45, 33, 48, 54)  # the seven of the 68
_COARSE = (3000, 12_000)  # points of the first stages
_STEPS, _TOLERANCE = 60, 1e-7  # of an alignment, and the relative decrease that ends it


def face_ball(landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [3] and radius of the scan's part that is measured, of its seven landmarks [7, 3]."""
    bridge = (landmarks[1] + landmarks[2]) / 2
    eyes, nose = np.linalg.norm(landmarks[0] - landmarks[3]), np.linalg.norm(bridge - landmarks[4])
    return landmarks[4] + 0.3 * (bridge - landmarks[4]), float(1.4 * (eyes + nose) / 2)


def scan_errors(
    scan: np.ndarray,
    scan_landmarks: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    landmarks: np.ndarray,
    *,
    metrical: bool = False,
) -> np.ndarray:
    """Distances [P] of the points of a scan's face from a reconstructed mesh.

    Args:
      scan: [S, 3], millimetres.
      scan_landmarks: [7, 3], in the challenge's order.
      vertices: [N, 3] of the reconstruction, in any unit; millimetres if `metrical`.
      triangles: [T, 3].
      landmarks: [7, 3] of the reconstruction.
      metrical: keep the reconstruction's size.

    Raises:
      ValueError: the scan has no points in the ball of its landmarks, or an array is not finite.
    """
    arrays = (scan, scan_landmarks, vertices, landmarks)
    scan, scan_landmarks, vertices, landmarks = (np.asarray(array, np.float64) for array in arrays)
    if not all(np.isfinite(array).all() for array in (scan_landmarks, vertices, landmarks)):
        raise ValueError("A vertex or landmark is not finite.")
    centre, radius = face_ball(scan_landmarks)
    points = scan[((scan - centre) ** 2).sum(axis=1) <= radius**2]
    if len(points) < 10:
        raise ValueError(f"The scan has {len(points)} points in the ball of its landmarks; are both in one frame?")
    surface = Surface(vertices, triangles)
    motion = similarity(landmarks, scan_landmarks, scaled=not metrical)
    rng = np.random.default_rng(0)
    coarse = [rng.choice(points, count, replace=False) for count in _COARSE if count < len(points) / 2]
    for part in (*coarse, points):
        motion, distances = _align(surface, part, motion, metrical)
    return np.abs(distances)


def _align(surface: Surface, points: np.ndarray, motion: Similarity, metrical: bool) -> tuple[Similarity, np.ndarray]:
    """The motion of least squared distances from the given one, and the signed distances [P].

    Levenberg-Marquardt steps in the mesh's frame: by the envelope theorem the closest points count as fixed in the
    derivative of a distance.
    """
    damping, motion_at = 1e-6, motion
    places, found = surface.closest(motion.inverse(points))
    residual, moved, direction = _residual(surface, points, motion, places, found)
    cost = residual @ residual
    for _ in range(_STEPS):
        jacobian = np.concatenate([np.cross(moved, direction), direction], axis=1) * motion_at.scale
        if not metrical:
            growth = motion_at.scale * (direction * moved).sum(axis=1) - residual
            jacobian = np.concatenate([jacobian, growth[:, None]], axis=1)
        gram, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        before = cost
        for _ in range(8):
            change = -np.linalg.solve(gram + damping * np.diag(np.diag(gram)), gradient)
            trial = _changed(motion_at, change)
            trial_places, trial_found = surface.closest(trial.inverse(points), found)
            result = _residual(surface, points, trial, trial_places, trial_found)
            if result[0] @ result[0] < cost:
                motion_at, found, damping = trial, trial_found, damping / 10
                residual, moved, direction = result
                cost = residual @ residual
                break
            damping *= 10
        if before - cost <= _TOLERANCE * before:
            break
    return motion_at, residual


def _residual(surface, points, motion, places, found):
    """(signed distances [P] in the scan's unit, points in the mesh's frame, unit directions off the surface [P, 3])."""
    moved = motion.inverse(points)
    offset = moved - places
    length = np.linalg.norm(offset, axis=1)
    normal = surface.normals(found)
    sign = np.where((offset * normal).sum(axis=1) < 0, -1.0, 1.0)
    far = length > 1e-9 * max(float(np.abs(moved).max()), 1e-300)
    direction = np.where(far[:, None], sign[:, None] * offset / np.maximum(length, 1e-300)[:, None], normal)
    return motion.scale * sign * length, moved, direction


def _changed(motion: Similarity, change: np.ndarray) -> Similarity:
    """The motion whose inverse is followed by a small turn, shift and growth of the mesh's frame."""
    turn, shift = change[:3], change[3:6]
    growth = np.exp(change[6]) if len(change) > 6 else 1.0
    angle = np.linalg.norm(turn)
    axis = turn / max(angle, 1e-300)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    small = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    # q' = growth * small @ q + shift, so that the motion becomes p = scale R (small^T (q' - shift) / growth) + t.
    rotation, scale = motion.rotation @ small.T, motion.scale / growth
    return Similarity(scale, rotation, motion.translation - scale * rotation @ shift)
