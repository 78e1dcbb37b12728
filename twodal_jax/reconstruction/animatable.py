"""Animatable faces: meshes at rest with morph targets, the pose and weights of reconstructions, and a shared shape.

In the frame "image", a face's node carries its pose in pixels of the picture, and the node "metres" above all faces
scales pixels to metres. In the frame "model", there is no pose. `export.frames` describes both.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from twodal_jax.export import frames, glb
from twodal_jax.geometry import coefficients, morphable_model, projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.reconstruction.one_euro import polar
from twodal_jax.reconstruction.scene import Surface


def with_shared_shape(model: MorphableModel, alpha: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Gives all faces of one person the same shape: the weighted mean of theirs.

    Each pose becomes the scaled rotation that keeps the 68 landmarks nearest to their places (least squares).

    Args:
      model: with or without its mesh.
      alpha: [F, 62] raw.
      weight: [F], such as confidences; all 0 counts as equal.

    Returns:
      float32 [F, 62].
    """
    alpha, weight = np.asarray(alpha, np.float32), np.maximum(weight, 1e-6)
    pose, shapes, expression = coefficients.split(alpha)
    shape = np.broadcast_to(np.average(shapes, axis=0, weights=weight), shapes.shape).astype(np.float32)
    before, after = (
        np.asarray(morphable_model.landmarks_model(model, np.concatenate([alpha[:, :12], part, expression], axis=1)))
        for part in (shapes, shape)
    )
    places = np.einsum("fij,fnj->fni", pose[..., :3], before) + pose[:, None, :, 3]
    return np.concatenate([_similarity(after, places).reshape(-1, 12), shape, expression], axis=1).astype(np.float32)


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[F, 3, 4], the scaled rotation and shift that moves source [F, P, 3] nearest to target.

    Source: Umeyama, Least-squares estimation of transformation parameters, PAMI 1991.
    """
    source, target = source.astype(np.float64), target.astype(np.float64)
    middle, place = source.mean(axis=1), target.mean(axis=1)
    source = source - middle[:, None]
    rotation, symmetric = polar(np.einsum("fni,fnj->fij", target - place[:, None], source))
    scale = np.trace(symmetric, axis1=1, axis2=2) / np.square(source).sum(axis=(1, 2))
    linear = scale[:, None, None] * rotation
    return np.concatenate([linear, (place - np.einsum("fij,fj->fi", linear, middle))[..., None]], axis=2)


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
    pose, _, _ = coefficients.split(projection.alpha_crop_to_mat(alpha, roi_box, float(image_height)))
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
