"""The face models that benchmarks measure with."""

import os
import pathlib

import numpy as np

from twodal_jax import assets, morphable_model

NUM_VERTICES = 53_215


def full_size() -> morphable_model.MorphableModel:
    """The 40 + 10 BFM of $TWODAL_DATA_DIR, or the built-in face with its vertices repeated to as many."""
    path = pathlib.Path(os.environ.get("TWODAL_DATA_DIR", "nowhere"), "bfm_3ddfa")
    if path.exists():
        model = assets.load_morphable_model(path)
        if model.has_whitening:
            return model
        small = assets.load_morphable_model("builtin")
        return model.with_whitening(small.alpha_mean, small.alpha_std)
    return repeated(NUM_VERTICES)


def repeated(num_vertices: int) -> morphable_model.MorphableModel:
    """The built-in face with its vertices repeated, in order, to this many; the triangles stay."""
    small = assets.load_morphable_model("builtin")
    places = np.arange(num_vertices) % small.num_vertices
    return morphable_model.create(
        np.asarray(small.mean)[:, places], np.asarray(small.basis)[:, :, places], small.triangles,
        small.landmark_indices, small.alpha_mean, small.alpha_std,
    )  # fmt: skip


def random_alpha(model: morphable_model.MorphableModel, count: int, seed: int = 0) -> np.ndarray:
    """[count, 62] float32, raw, plausible faces of the model's whitening."""
    spread = np.random.default_rng(seed).standard_normal((count, 62))
    return (np.asarray(model.alpha_mean) + 0.5 * np.asarray(model.alpha_std) * spread).astype(np.float32)
