"""Assembly of the built-in face: mesh, orthogonal directions, landmarks, whitening.

Frame: millimetres, origin midway between the ears, x right as seen in the image of a frontal face,
y up (0 at the pupils), z to the viewer. A coefficient of 1 moves the vertices by 1 mm root mean
square, so `shape_std` is the size of each direction in millimetres.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from twodal_jax.face_models.procedural import (
    expression_directions,
    features,
    head_grid,
    landmarks,
    regions,
    sampling,
    shape_directions,
)
from twodal_jax.geometry import morphable_model
from twodal_jax.rendering.shading import vertex_normals


class FaceModel(NamedTuple):
    """The built-in face.

    Attributes:
      model: the MorphableModel, whitening included (that of `sampling.sample_alpha`).
      shape_std: float32 [40], standard deviation of each shape coefficient, in descending order.
      expression_scale: float32 [10], coefficient of the full expression, in descending order.
      shape_names, expression_names: names of the directions.
      regions: name -> float32 [N] weight from 0 to 1 (see `regions.region_weights`).
      brow_height, brow_along: float32 [N], see `regions.brow_coordinates`.
      hair_height: float32 [N], millimetres above the hairline.
      waves: float32 [N, 24], smooth unit-variance patterns for mottled skin and ragged hair.
      normals: float32 [N, 3], outward normals of the neutral head.
    """

    model: morphable_model.MorphableModel
    shape_std: np.ndarray
    expression_scale: np.ndarray
    shape_names: tuple[str, ...]
    expression_names: tuple[str, ...]
    regions: dict[str, np.ndarray]
    brow_height: np.ndarray
    brow_along: np.ndarray
    hair_height: np.ndarray
    waves: np.ndarray
    normals: np.ndarray


def orthogonalise(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonalises in the given order (Gram-Schmidt), so that each direction keeps its meaning.

    Args:
      fields: [K, 3, N], millimetres.

    Returns:
      basis [K, 3, N], orthogonal, each of 1 mm root mean square over the vertices, and size [K], the root mean square
      in millimetres of the remainder of each field.
    """
    count, _, num_vertices = fields.shape
    flat = fields.reshape(count, -1) / np.sqrt(num_vertices)
    # The fields are far from parallel, so their Gram matrix is precise enough.
    lower = np.linalg.cholesky(flat @ flat.T)
    basis = np.linalg.solve(lower, flat).reshape(fields.shape) * np.sqrt(num_vertices)
    return basis, np.diag(lower).copy()


def _waves(neutral: np.ndarray) -> np.ndarray:
    """Smooth pseudo-random patterns with wavelengths of 12 to 60 mm, float32 [N, 24]."""
    rng = np.random.default_rng(7)
    direction = rng.normal(size=(24, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = np.geomspace(12.0, 60.0, 24)
    phase = neutral @ (direction * (2 * np.pi / wavelength)[:, None]).T
    patterns = np.sin(phase + rng.uniform(0, 2 * np.pi, 24))
    return (patterns * np.sqrt(2.0 / 24)).astype(np.float32)


@functools.lru_cache(maxsize=1)
def build_face_model() -> FaceModel:
    """Builds the built-in face, in about a second, once per process."""
    grid = head_grid.head_grid()
    plan = features.face_plan(grid)
    neutral = features.neutral_vertices(plan)
    triangles = head_grid.triangles(*grid.points.shape[:2])
    shape_basis, shape_size = orthogonalise(shape_directions.shape_fields(plan, neutral))
    expression_basis, expression_size = orthogonalise(expression_directions.expression_fields(plan, neutral))
    basis = np.concatenate([shape_basis, expression_basis]).astype(np.float32)
    indices = landmarks.landmark_indices(grid, plan)
    shape_std = np.minimum.accumulate(shape_size).astype(np.float32)
    expression_scale = np.minimum.accumulate(expression_size).astype(np.float32)
    alpha_mean, alpha_std = sampling.whitening(neutral.T[:, indices], basis[:, :, indices], shape_std, expression_scale)
    height, along = regions.brow_coordinates(plan)
    return FaceModel(
        model=morphable_model.create(neutral.T, basis, triangles, indices, alpha_mean, alpha_std),
        shape_std=shape_std,
        expression_scale=expression_scale,
        shape_names=shape_directions.SHAPE_NAMES,
        expression_names=expression_directions.EXPRESSION_NAMES,
        regions=regions.region_weights(plan),
        brow_height=height.astype(np.float32),
        brow_along=along.astype(np.float32),
        hair_height=regions.hair_height(plan).astype(np.float32),
        waves=_waves(neutral),
        normals=vertex_normals(neutral, triangles),
    )
