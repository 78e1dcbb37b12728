"""Random faces of the built-in model: shape, expression and pose coefficients, and their whitening.

NumPy only, because worker threads draw one sample at a time; tests compare it with `geometry.projection` and
`geometry.coefficients`.
"""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models import cc0_head, face_units
from twodal_jax.face_models.cc0_head import Cc0Head
from twodal_jax.geometry.coefficients import NUM_SHAPE

MAX_YAW, MAX_PITCH, MAX_ROLL = 90.0, 25.0, 25.0
_CROP_SIZE = 120
_WHITENING_SAMPLES = 2048
# A detector's crop box relative to the exact box of the landmarks, as shares of its side. It is larger and higher,
# because detectors include a part of the forehead, which has no landmarks.
_BOX_SLACK, _BOX_SLACK_STD = 0.10, 0.045
_BOX_LIFT, _BOX_SHIFT_STD = 0.04, 0.022
_MAX_EXPRESSION = 4.0  # rare sums of several strong face units are cut


def sample_shape(rng: np.random.Generator) -> np.ndarray:
    """Shape coefficients of a random person: float32 [40], normal, cut at 2.5 standard deviations."""
    return np.clip(rng.normal(size=NUM_SHAPE), -2.5, 2.5).astype(np.float32)


def sample_expression(rng: np.random.Generator, head: Cc0Head) -> np.ndarray:
    """Coefficients of a random expression of the face units: float32 [10]."""
    activations = face_units.sample_activations(rng, 1)[0]
    return np.clip(cc0_head.expression_coefficients(head, activations), -_MAX_EXPRESSION, _MAX_EXPRESSION)


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Rotation R_x(pitch) R_y(yaw) R_z(roll), radians, [3, 3], as `coefficients.rotation_from_euler`."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (pitch, yaw, roll))
    turn_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    turn_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    turn_z = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    return turn_x @ turn_y @ turn_z


def sample_angles(rng: np.random.Generator, max_yaw: float = MAX_YAW) -> np.ndarray:
    """Pitch, yaw, roll in radians, [3]: yaw is uniform, the others are normal and clipped to their limits."""
    pitch, roll = np.clip(rng.normal(0, [MAX_PITCH / 3, MAX_ROLL / 3]), [-MAX_PITCH, -MAX_ROLL], [MAX_PITCH, MAX_ROLL])
    return np.radians([pitch, rng.uniform(-max_yaw, max_yaw), roll])


def sample_pose(
    rng: np.random.Generator, landmarks_model: np.ndarray, max_yaw: float = MAX_YAW, jitter: float = 1.0
) -> np.ndarray:
    """Random pose of a face in the crop given by the box around its landmarks.

    Args:
      rng: source of random numbers.
      landmarks_model: [68, 3], of the face, model frame.
      max_yaw: degrees.
      jitter: 1 shifts and scales the crop box like that of a detector (10 % larger, 4 % higher, standard deviations
        4.5 % and 2.2 % of its side), 0 is the exact box of `projection.roi_box_from_landmarks`.

    Returns:
      float32 [3, 4], the matrix [f R | t] of alpha: 120-pixel crop, y up, 1-based.
    """
    turned = rotation(*sample_angles(rng, max_yaw))
    points = landmarks_model @ turned.T
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    slack = jitter * rng.normal(_BOX_SLACK, _BOX_SLACK_STD)
    side = np.sqrt(2.0) * (high - low).max() * (1 + slack)
    scale = _CROP_SIZE / side
    centre = (low + high) / 2 + jitter * rng.normal([0.0, _BOX_LIFT], _BOX_SHIFT_STD) * side
    # Crop pixel (60, 60) with y down is (60, 61) with y up.
    offset = np.array([_CROP_SIZE / 2, _CROP_SIZE / 2 + 1]) - scale * centre
    depth = -scale * points[:, 2].mean()
    return np.column_stack([scale * turned, [*offset, depth]]).astype(np.float32)


def sample_alpha(rng: np.random.Generator, head: Cc0Head, max_yaw: float = MAX_YAW, jitter: float = 1.0) -> np.ndarray:
    """Alpha of one random face: float32 [62], raw, frame of the 120-pixel crop; arguments as in `sample_pose`."""
    weights = np.concatenate([sample_shape(rng), sample_expression(rng, head)])
    landmarks = head.model.landmark_mean + np.tensordot(weights, head.model.landmark_basis, axes=1)
    pose = sample_pose(rng, landmarks.T, max_yaw, jitter)
    return np.concatenate([pose.ravel(), weights]).astype(np.float32)


def whitening(head: Cc0Head) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of `sample_alpha`, float32 [62] each; those of the shape are known: 0 and 1."""
    rng = np.random.default_rng(0)
    alphas = np.stack([sample_alpha(rng, head) for _ in range(_WHITENING_SAMPLES)])
    mean, std = alphas.mean(axis=0), alphas.std(axis=0)
    mean[12 : 12 + NUM_SHAPE], std[12 : 12 + NUM_SHAPE] = 0, 1
    return mean.astype(np.float32), std.astype(np.float32)
