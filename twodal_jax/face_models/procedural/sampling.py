"""Random faces: shape, expression and pose coefficients, and their whitening.

NumPy only, because worker threads draw one sample at a time; tests compare it with `geometry.projection` and
`geometry.coefficients`.
"""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models.procedural.expression_directions import EXPRESSION_NAMES

MAX_YAW, MAX_PITCH, MAX_ROLL = 90.0, 25.0, 25.0
_CROP_SIZE = 120
_WHITENING_SAMPLES = 2048
# A detector's crop box relative to the exact box of the landmarks, as shares of its side. It is larger and higher,
# because detectors include a part of the forehead, which has no landmarks.
_BOX_SLACK, _BOX_SLACK_STD = 0.10, 0.045
_BOX_LIFT, _BOX_SHIFT_STD = 0.04, 0.022
# Probability that an expression is active; otherwise it has only noise.
_EXPRESSION_SHARE = 0.18
# mouth_sideways has both signs, the other expressions only one.
_SIGNED = ("mouth_sideways",)


def sample_shape(rng: np.random.Generator, shape_std: np.ndarray) -> np.ndarray:
    """Shape coefficients: float32 [40], normal with `shape_std`, clipped to 2.5 standard deviations."""
    return (np.clip(rng.normal(size=40), -2.5, 2.5) * shape_std).astype(np.float32)


def sample_expression(rng: np.random.Generator, expression_scale: np.ndarray) -> np.ndarray:
    """Expression coefficients: float32 [10]; each is active with a fixed probability, from weak to full."""
    worn = rng.random(10) < _EXPRESSION_SHARE
    activation = np.where(worn, rng.uniform(0.1, 1.0, 10), 0.0)
    opposite = np.array([name in _SIGNED for name in EXPRESSION_NAMES]) & (rng.random(10) < 0.5)
    activation = np.where(opposite, -activation, activation) + rng.normal(0, 0.06, 10)
    closed = EXPRESSION_NAMES.index("eyes_closed")
    activation[closed] = np.clip(activation[closed], -0.15, 1.0)
    jaw = EXPRESSION_NAMES.index("mouth_open")
    activation[jaw] = np.clip(activation[jaw], 0.0, 1.0)
    return (activation * expression_scale).astype(np.float32)


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
      landmarks_model: [68, 3], of the face, model frame, millimetres.
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


def sample_alpha(
    rng: np.random.Generator,
    landmark_mean: np.ndarray,
    landmark_basis: np.ndarray,
    shape_std: np.ndarray,
    expression_scale: np.ndarray,
    max_yaw: float = MAX_YAW,
    jitter: float = 1.0,
) -> np.ndarray:
    """Alpha of one random face: float32 [62], raw, frame of the 120-pixel crop.

    Args:
      rng: source of random numbers.
      landmark_mean: [3, 68] of the MorphableModel.
      landmark_basis: [50, 3, 68] of the MorphableModel.
      shape_std: of the FaceModel.
      expression_scale: of the FaceModel.
      max_yaw: see `sample_pose`.
      jitter: see `sample_pose`.
    """
    shape, expression = sample_shape(rng, shape_std), sample_expression(rng, expression_scale)
    weights = np.concatenate([shape, expression])
    landmarks = landmark_mean + np.tensordot(weights, landmark_basis, axes=1)
    pose = sample_pose(rng, landmarks.T, max_yaw, jitter)
    return np.concatenate([pose.ravel(), weights]).astype(np.float32)


def whitening(
    landmark_mean: np.ndarray, landmark_basis: np.ndarray, shape_std: np.ndarray, expression_scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of `sample_alpha`, float32 [62] each."""
    rng = np.random.default_rng(0)
    alphas = np.stack(
        [
            sample_alpha(rng, landmark_mean, landmark_basis, shape_std, expression_scale)
            for _ in range(_WHITENING_SAMPLES)
        ]
    )
    mean, std = alphas.mean(axis=0), alphas.std(axis=0)
    # Known exactly.
    mean[12:52], std[12:52] = 0.0, shape_std
    return mean.astype(np.float32), std.astype(np.float32)
