"""Face models for the benchmarks."""

import os
import pathlib

import numpy as np

from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import morphable_model

NUM_VERTICES = 53_215


def full_size() -> morphable_model.MorphableModel:
    """The 40 + 10 BFM of $TWODAL_DATA_DIR, or the built-in face with the same number of vertices."""
    path = pathlib.Path(os.environ.get("TWODAL_DATA_DIR", "nowhere"), "bfm_3ddfa")
    if path.exists():
        model = load_morphable_model(path)
        if model.has_whitening:
            return model
        small = load_morphable_model("builtin")
        return model.with_whitening(small.alpha_mean, small.alpha_std)
    return with_points(NUM_VERTICES)


def with_points(num_vertices: int) -> morphable_model.MorphableModel:
    """The built-in face with points drawn evenly from its surface, up to a number of vertices; the triangles stay."""
    small = load_morphable_model("builtin")
    mean, basis, triangles = (np.asarray(values) for values in (small.mean, small.basis, small.triangles))
    first, second, third = (mean.T[corner] for corner in triangles.T)
    area = np.linalg.norm(np.cross(second - first, third - first), axis=1)
    rng = np.random.default_rng(0)
    added = num_vertices - small.num_vertices
    corners = triangles[rng.choice(len(triangles), added, p=area / area.sum())]
    weights = rng.dirichlet((1, 1, 1), added).astype(np.float32)

    def dense(values):
        return np.concatenate([values, (values[..., corners] * weights).sum(axis=-1)], axis=-1)

    return morphable_model.create(
        dense(mean), dense(basis), triangles, small.landmark_indices, small.alpha_mean, small.alpha_std
    )


def random_alpha(model: morphable_model.MorphableModel, count: int, seed: int = 0) -> np.ndarray:
    """[count, 62] float32, raw coefficients of plausible faces, by the whitening of the model."""
    spread = np.random.default_rng(seed).standard_normal((count, 62))
    return (np.asarray(model.alpha_mean) + 0.5 * np.asarray(model.alpha_std) * spread).astype(np.float32)


def made_faces(model: morphable_model.MorphableModel, count: int, size: int) -> np.ndarray:
    """[count, N, 3] vertices, pixels, y down: random shapes with yaw from -60 to 60 degrees."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((count, morphable_model.NUM_DIRECTIONS)).astype(np.float32)
    alpha = np.asarray(model.alpha_mean)[12:] + 0.5 * spread * np.asarray(model.alpha_std)[12:]
    shapes = np.einsum("bk,kcn->bnc", alpha, np.asarray(model.basis), optimize=True)
    shapes += np.asarray(model.mean).T
    for shape, yaw in zip(shapes, np.radians(np.linspace(-60, 60, count))):
        turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        shape[:] = shape @ turn.T.astype(np.float32) * np.float32([1, -1, 1])
        shape -= shape.min(axis=0)
        shape *= (size - 1) / shape[:, :2].max()
    return shapes
