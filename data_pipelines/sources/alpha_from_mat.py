"""300W-LP's parameters -> alpha and true landmarks of a crop.

The .mat files count pixels from 1; the results are in the frames of `geometry.projection`.
"""

import hashlib

import jax
import numpy as np

from data_pipelines.sources.base import SkipFace
from twodal_jax.geometry import coefficients, projection
from twodal_jax.geometry.morphable_model import MorphableModel, without_mesh

PARAMETER_SIZES = {"Pose_Para": 7, "Shape_Para": 199, "Exp_Para": 29}


def image_alpha(parameters: dict[str, np.ndarray], *, allow_negative_scale: bool = False) -> np.ndarray:
    """Raw alpha [62] float32 of the whole image, in the file's pixels (from 1), y up.

    `Pose_Para` = pitch, yaw, roll (radians), t_x, t_y, t_z (image pixels, y up), f. The first 40 and 10 of the 199
    shape and 29 expression coefficients are kept. `allow_negative_scale` accepts f < 0: AFLW2000-3D has one such face,
    whose vertices are in the right place.

    Raises SkipFace if a parameter is missing, of a wrong length or not finite, or if f is not positive.
    """
    values = {name: _vector(parameters, name) for name in PARAMETER_SIZES}
    pose, shape, expression = values.values()
    if pose[6] == 0 or (pose[6] < 0 and not allow_negative_scale):
        raise SkipFace(
            "bad parameters", f"Pose_Para: scale {pose[6]:.3g} is not positive, the face would be inside out"
        )
    shape, expression = shape[: coefficients.NUM_SHAPE], expression[: coefficients.NUM_EXPRESSION]
    return np.asarray(_compose(pose[:3], pose[3:6], pose[6], shape, expression))


def crop_alpha(alpha_image: np.ndarray, roi_box: np.ndarray, image_height: int) -> np.ndarray:
    """Alpha [62] of the image -> alpha float32 [62] of the 120-pixel crop `roi_box` [4]."""
    return np.asarray(_to_crop(alpha_image, roi_box, np.float32(image_height)))


def landmarks_image(model: MorphableModel, alpha_image: np.ndarray, height: int) -> np.ndarray:
    """The 68 landmarks [68, 3] float32 of an image's alpha, image pixels, y down."""
    # Any crop box would do as an intermediate frame; this one is the identity.
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
    """Hash of what determines a model's landmarks."""
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
