"""300W-LP's parameters -> alpha and true landmarks of a crop.

The .mat files count pixels from 1; what leaves this module is in the frames of `projection`.
"""

from __future__ import annotations

import hashlib

import jax
import numpy as np

from data_pipelines.sources.base import SkipFace
from twodal_jax.geometry import coefficients, projection
from twodal_jax.geometry.morphable_model import MorphableModel, without_mesh

PARAMETER_SIZES = {"Pose_Para": 7, "Shape_Para": 199, "Exp_Para": 29}


def image_alpha(parameters: dict[str, np.ndarray], *, inside_out: bool = False) -> np.ndarray:
    """`Pose_Para`, `Shape_Para`, `Exp_Para` -> raw alpha [62] float32 of the whole image, as the file
    counts pixels (from 1), y up.

    `Pose_Para` = pitch, yaw, roll (radians), t_x, t_y, t_z (image pixels, y up), f; the first 40 and
    10 of the 199 and 29 coefficients are kept. `inside_out` lets a negative f pass: AFLW2000-3D has one
    such face, whose vertices still lie where the face is.

    Raises:
      SkipFace: a parameter is missing, too short, not finite, or f is not positive (or 0).
    """
    values = {name: _vector(parameters, name) for name in PARAMETER_SIZES}
    pose = values["Pose_Para"]
    if pose[6] == 0 or (pose[6] < 0 and not inside_out):
        raise SkipFace(
            "bad parameters", f"Pose_Para: scale {pose[6]:.3g} is not positive, the face would be inside out"
        )
    angles, translation, scale = pose[:3], pose[3:6], pose[6]
    return np.asarray(
        _compose(
            angles,
            translation,
            scale,
            values["Shape_Para"][: coefficients.NUM_SHAPE],
            values["Exp_Para"][: coefficients.NUM_EXPRESSION],
        )
    )


def crop_alpha(alpha_image: np.ndarray, roi_box: np.ndarray, image_height: int) -> np.ndarray:
    """Alpha [62] of an image -> float32 [62] of its 120-pixel crop."""
    return np.asarray(_to_crop(alpha_image, roi_box, np.float32(image_height)))


def landmarks_image(model: MorphableModel, alpha_image: np.ndarray, height: int) -> np.ndarray:
    """The 68 landmarks [68, 3] float32 that alpha and the model make, image pixels, y down."""
    # Any crop box works as a stepping stone; this one is the identity.
    box = np.array([0.0, 0.0, projection.CROP_SIZE, projection.CROP_SIZE], np.float32)
    alpha = _to_crop(alpha_image, box, np.float32(height))
    return np.asarray(_landmarks(without_mesh(model), alpha))


def points_to_crop(points: np.ndarray, roi_box: np.ndarray) -> np.ndarray:
    """Points [P, 2 or 3], image pixels -> crop pixels, float32."""
    return np.asarray(projection.image_to_crop(np.float32(points), np.float32(roi_box)))


def mat_points(points: np.ndarray) -> np.ndarray:
    """Landmarks [P, 2 or 3] of a .mat file -> image pixels, float32."""
    return np.asarray(projection.mat_to_image(np.float32(points)))


def model_digest(model: MorphableModel) -> bytes:
    """Changes when the landmarks that a model makes do."""
    parts = (np.asarray(model.landmark_mean), np.asarray(model.landmark_basis))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()[:8]


def _vector(parameters: dict[str, np.ndarray], name: str) -> np.ndarray:
    size = PARAMETER_SIZES[name]
    if name not in parameters:
        raise SkipFace("missing key", f"no {name}")
    try:
        vector = np.asarray(parameters[name], np.float32).ravel()
    except (TypeError, ValueError):
        raise SkipFace("bad parameters", f"{name} is not numeric") from None
    if vector.size != size:
        raise SkipFace("bad parameters", f"{name} has {vector.size} values, expected {size}")
    if not np.isfinite(vector).all():
        raise SkipFace("not finite", f"{name} has NaN or infinite values")
    return vector


@jax.jit
def _compose(angles, translation, scale, shape, expression):
    pose = coefficients.Pose(scale, coefficients.rotation_from_euler(angles), translation)
    return coefficients.join(coefficients.compose_pose(pose), shape, expression)


_to_crop = jax.jit(projection.alpha_mat_to_crop)
_landmarks = jax.jit(projection.landmarks_crop)
