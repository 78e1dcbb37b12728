"""Animatable faces: meshes at rest with morph targets, the pose and weights of reconstructions, and a shared shape.

In the frame "image", a face's node carries its pose in pixels of the picture, and the node "metres" above all faces
scales pixels to metres. In the frame "model", there is no pose. `export.frames` describes both.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from twodal_jax.export import frames, glb
from twodal_jax.geometry import coefficients, morphable_model, projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.geometry.similarity import similarity
from twodal_jax.reconstruction.one_euro import polar
from twodal_jax.reconstruction.scene import Surface

_crop_to_mat = jax.jit(projection.alpha_crop_to_mat)


def with_shared_shape(model: MorphableModel, alpha: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Gives all faces of one person the same shape: the mean of theirs by weight.

    Args:
      model: with or without its mesh.
      alpha: [F, 62] raw.
      weight: [F], such as confidences; all 0 counts as equal.

    Returns:
      float32 [F, 62], see `with_shape`.
    """
    shapes = coefficients.split(np.asarray(alpha))[1]
    return with_shape(model, alpha, np.average(shapes, axis=0, weights=np.maximum(weight, 1e-6)))


def with_shape(model: MorphableModel, alpha: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Replaces the shape of faces: alpha [F, 62] raw, shape [40] -> float32 [F, 62].

    Each pose becomes the scaled rotation that keeps the 68 landmarks nearest to their places (least squares).
    """
    alpha = np.asarray(alpha, np.float32)
    pose, before, expression = coefficients.split(alpha)
    after = np.broadcast_to(np.asarray(shape, np.float32), before.shape)
    replaced = np.concatenate([alpha[:, : coefficients.NUM_POSE], after, expression], axis=1)
    mean, basis = np.asarray(model.landmark_mean), np.asarray(model.landmark_basis)
    source, target = (
        np.swapaxes(mean + np.einsum("fk,kin->fin", rows[:, coefficients.NUM_POSE :], basis), 1, 2)
        for rows in (replaced, alpha)
    )
    target = np.einsum("fij,fnj->fni", pose[..., :3], target) + pose[:, None, :, 3]
    moved = similarity(source, target)
    linear = moved.scale[:, None, None] * moved.rotation
    pose = np.concatenate([linear, moved.translation[..., None]], axis=2)
    replaced[:, : coefficients.NUM_POSE] = pose.reshape(len(alpha), -1)
    return replaced


def glb_mesh(
    name: str,
    alpha: np.ndarray,
    roi_box: np.ndarray,
    surface: Surface,
    frame: str,
    image_height: int,
    texture: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> glb.GlbMesh:
    """The mesh of one person: at rest in its vertices, posed by its motion.

    Vertices are in metres, in the frame "model" in the model's unit if its size is unknown. The first N are the
    morphable model's; copies of those at the texture's seam follow.

    Args:
      name: of the mesh.
      alpha: [F, 62] raw, of one face (F = 1) or of a film's frames, which have the first one's shape.
      roi_box: [F, 4], image pixels.
      surface: of the morphable model.
      frame: "image" or "model".
      image_height: pixels.
      texture: BGR uint8 [S, S, 3].
      times: [F] seconds, for a film.
    """
    flat = surface.uv_map
    unit = surface.metres if frame == frames.IMAGE else surface.unit or 1.0
    neutral = np.array(alpha[0], np.float32)
    neutral[-coefficients.NUM_EXPRESSION :] = 0
    vertices = np.asarray(morphable_model.vertices_model(surface.model, neutral))[flat.vertex] * unit
    targets = surface.morph_targets if unit == 1 else surface.morph_targets * np.float32(unit)
    motion = glb.Motion.still(surface.morph_weights(alpha[:, -coefficients.NUM_EXPRESSION :]), times)
    if frame == frames.IMAGE:
        linear, place = _image_pose(np.asarray(alpha, np.float32), np.asarray(roi_box, np.float32), image_height)
        rotation, stretch = polar(linear / unit)
        scale = np.trace(stretch, axis1=1, axis2=2) / 3
        if len(alpha) == 1:  # a regressed pose is no exact rotation; its remainder keeps the face exactly on the photo
            remainder = (stretch[0] / scale[0]).T.astype(np.float32)
            vertices, targets = vertices @ remainder, targets @ remainder
        motion = glb.Motion(rotation, place, scale, motion.weights, times)
    return glb.GlbMesh(name, vertices, flat.triangles, flat.uv, texture, None, targets, surface.morph_names, motion)


def _image_pose(alpha: np.ndarray, roi_box: np.ndarray, image_height: int) -> tuple[np.ndarray, np.ndarray]:
    """Pose from the model's frame to the exported frame "image": linear [F, 3, 3] and place [F, 3], float64."""
    # Padded to a power of two, because each number of rows is compiled.
    rows = np.minimum(np.arange(1 << (len(alpha) - 1).bit_length()), len(alpha) - 1)
    moved = np.asarray(_crop_to_mat(alpha[rows], roi_box[rows], float(image_height)))[: len(alpha)]
    pose, _, _ = coefficients.split(moved)
    # Both frames have y up; .mat files count from the centre of a pixel that would lie before the corner's.
    return np.asarray(pose[..., :3], np.float64), np.asarray(pose[..., 3], np.float64) - [0.5, 0.5, 0.0]


def metres_per_pixel(alpha: np.ndarray, roi_box: np.ndarray, surface: Surface) -> float:
    """Median over faces: alpha [F, 62] raw, roi_box [F, 4], image pixels."""
    linear, _ = _image_pose(np.asarray(alpha, np.float32), np.asarray(roi_box, np.float32), 0)
    return surface.metres / float(np.median(np.cbrt(np.abs(np.linalg.det(linear)))))


def write(
    path: pathlib.Path, found: Sequence[glb.GlbMesh], surface: Surface, frame: str, metres: float
) -> pathlib.Path:
    """Writes faces of one picture or film to a GLB; metres: a pixel's, see `metres_per_pixel`."""
    if frame == frames.MODEL:
        return glb.write_scene(path, found, comment=frames.describe(frame, surface.unit))
    text = f"{frames.describe(frame)}; the node 'metres' scales pixels to metres"
    return glb.write_scene(path, found, scale=metres, comment=text)
