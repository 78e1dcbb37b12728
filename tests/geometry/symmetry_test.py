"""Mirrored faces: exact on a symmetric model, close on BFM, rejected on others."""

import os
import pathlib

import helpers_model
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import coefficients, heatmap, projection, symmetry

DATA_DIR = os.environ.get("TWODAL_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA_DIR, reason="TWODAL_DATA_DIR is not set")


@pytest.fixture(scope="module")
def model():
    return symmetry.with_mirror(helpers_model.symmetric_model())


@pytest.fixture(scope="module")
def alpha():
    return helpers_model.random_alpha(np.random.default_rng(1), 20)


def mirrored_points(points):
    """x -> 119 - x, in NumPy."""
    return np.asarray(points) * [-1.0, 1.0, 1.0] + [119.0, 0.0, 0.0]


def distance_as_sets(a, b):
    """Largest distance from a point of a to the nearest of b; both [N, 3]."""
    return np.linalg.norm(a[:, None] - b[None], axis=-1).min(axis=1).max()


def test_mirror_alpha_is_exact_on_a_symmetric_model(model, alpha):
    vertices = projection.vertices_crop(model, alpha)
    again = projection.vertices_crop(model, projection.mirror_alpha(alpha, model.mirror_map))
    for before, after in zip(mirrored_points(vertices), np.asarray(again)):
        assert distance_as_sets(before, after) < 0.01
    assert distance_as_sets(np.asarray(vertices[0]), np.asarray(again[0])) > 1  # the mirror image differs


def test_mirroring_twice_gives_the_original_face(model, alpha):
    twice = projection.mirror_alpha(projection.mirror_alpha(alpha, model.mirror_map), model.mirror_map)
    np.testing.assert_allclose(
        projection.vertices_crop(model, twice), projection.vertices_crop(model, alpha), atol=0.02
    )


def test_mirroring_keeps_scale_and_negates_yaw_and_roll(model, alpha):
    mirrored = projection.mirror_alpha(alpha, model.mirror_map)
    before, after = (coefficients.decompose_pose(coefficients.split(a)[0]) for a in (alpha, mirrored))
    np.testing.assert_allclose(after.scale, before.scale, rtol=1e-5)
    flip = np.diag([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(after.rotation, flip @ np.asarray(before.rotation) @ flip, atol=1e-5)


def test_with_mirror_rejects_an_asymmetric_model():
    with pytest.raises(ValueError, match="not symmetric.*mirror_annotated"):
        symmetry.with_mirror(helpers_model.tiny_model())


@pytest.mark.parametrize("path", ["builtin", pytest.param("bfm_3ddfa", marks=needs_data)])
def test_mirrored_landmarks_match_their_counterparts_on_face_models(path):
    folder = "" if path == "builtin" else DATA_DIR
    model = symmetry.with_mirror(load_morphable_model(pathlib.Path(folder, path)))
    whitened = np.random.default_rng(0).standard_normal((200, 62)).astype(np.float32)
    alpha = model.alpha_mean + model.alpha_std * whitened
    points = np.asarray(heatmap.landmarks_18_from_68(projection.landmarks_crop(model, alpha)[..., :2]))
    mirrored = projection.mirror_alpha(jnp.asarray(alpha), model.mirror_map)
    found = heatmap.landmarks_18_from_68(projection.landmarks_crop(model, mirrored)[..., :2])
    expected = (points * [-1, 1] + [119, 0])[:, heatmap.MIRROR_18]
    size = np.sqrt(np.prod(np.ptp(points, axis=1), axis=-1))
    nme = 100 * np.linalg.norm(found - expected, axis=-1).mean(axis=-1) / size
    assert nme.mean() < (0.2 if path == "builtin" else 1.0)
