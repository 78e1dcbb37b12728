"""Learnt offsets from the morphable model's landmarks to those of the wild dataset's annotators. Ours.

Landmark conventions differ: AFLW's nose wings, mouth centre and outer ends of the brows lie 2 to 9 pixels (of a
120-pixel crop) from iBUG's, which the mesh's landmarks follow. Treating them as the same points distorts the shape. The
difference is a property of the face, not of the image: one offset per landmark in the morphable model's frame, learnt
along with the regressor, rotated and scaled by each face's pose.
"""

import jax
import jax.numpy as jnp

from twodal_jax import forward
from twodal_jax.geometry import heatmap, projection
from twodal_jax.geometry.morphable_model import MorphableModel, OUTER_EYE_CORNERS

NAME = "landmark_offsets"  # in the regressor's parameters: [18, 3], or [21, 3] with the jaw points
UNIT = 0.1  # of the mean face's outer interocular distance: matches an optimiser's usual step sizes


def to_dataset_convention(
    result: forward.Reconstruction, offsets: jax.Array | None, model: MorphableModel, *, jaw: bool = False
) -> jax.Array:
    """Landmarks of `result` in the dataset's convention: [B, P, 2], crop pixels, y down.

    offsets: [P, 3] in the morphable model's frame, in `UNIT`s of its outer interocular distance, or None.
    jaw: whether the three jaw points follow the 18 landmarks (P = 21) or not (P = 18).
    """
    points = heatmap.with_jaw_from_68(result.landmarks[..., :2]) if jaw else result.landmarks_18
    if offsets is None:
        return points
    left, right = (model.landmark_mean[:, corner] for corner in OUTER_EYE_CORNERS)
    unit = UNIT * jnp.linalg.norm(left - right)
    return points + projection.directions_crop(unit * offsets, result.alpha)[..., :2]
