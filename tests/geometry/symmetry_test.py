"""Mirrored faces: exact on a symmetric model, close on BFM, refused elsewhere."""

import os
import pathlib

import helpers_model
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import coefficients, heatmap, projection, symmetry
from twodal_jax.training.augmentation import mirror_matrix

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
    """The largest distance from a point of a to the nearest of b; both [N, 3]."""
    return np.linalg.norm(a[:, None] - b[None], axis=-1).min(axis=1).max()


def test_mirrored_coefficients_are_the_mirrored_face_exactly_on_a_symmetric_model(model, alpha):
    vertices = projection.vertices_crop(model, alpha)
    again = projection.vertices_crop(model, projection.mirror_alpha(alpha, model.mirror_map))
    for before, after in zip(mirrored_points(vertices), np.asarray(again)):
        assert distance_as_sets(before, after) < 0.01
    assert distance_as_sets(np.asarray(vertices[0]), np.asarray(again[0])) > 1  # it did move


def test_mirroring_twice_gives_the_face_back(model, alpha):
    twice = projection.mirror_alpha(projection.mirror_alpha(alpha, model.mirror_map), model.mirror_map)
    np.testing.assert_allclose(
        projection.vertices_crop(model, twice), projection.vertices_crop(model, alpha), atol=0.02
    )


def test_scale_stays_and_yaw_and_roll_turn_round(model, alpha):
    mirrored = projection.mirror_alpha(alpha, model.mirror_map)
    before, after = (coefficients.decompose_pose(coefficients.split(a)[0]) for a in (alpha, mirrored))
    np.testing.assert_allclose(after.scale, before.scale, rtol=1e-5)
    flip = np.diag([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(after.rotation, flip @ np.asarray(before.rotation) @ flip, atol=1e-5)


def test_a_model_without_symmetry_is_refused():
    with pytest.raises(ValueError, match="not symmetric.*mirror_annotated"):
        symmetry.with_mirror(helpers_model.tiny_model())


def mirror_error(model, alpha):
    """[n] NME of the 18 landmarks (image plane) of mirrored coefficients, in percent."""
    points = np.asarray(heatmap.landmarks_18_from_68(projection.landmarks_crop(model, alpha)[..., :2]))
    mirrored = projection.mirror_alpha(jnp.asarray(alpha), model.mirror_map)
    found = heatmap.landmarks_18_from_68(projection.landmarks_crop(model, mirrored)[..., :2])
    expected = np.asarray(projection.transform_points(points, mirror_matrix()))
    expected = expected[:, heatmap.MIRROR_18]
    size = np.sqrt(np.prod(np.ptp(points, axis=1), axis=-1))
    return 100 * np.linalg.norm(found - expected, axis=-1).mean(axis=-1) / size


@pytest.mark.parametrize("path", ["builtin", pytest.param("bfm_3ddfa", marks=needs_data)])
def test_landmarks_of_faces_mirror_to_their_counterparts(path):
    folder = "" if path == "builtin" else DATA_DIR
    model = load_morphable_model(pathlib.Path(folder, path))
    model = symmetry.with_mirror(model)
    whitened = np.random.default_rng(0).standard_normal((200, 62)).astype(np.float32)
    alpha = model.alpha_mean + model.alpha_std * whitened
    assert mirror_error(model, alpha).mean() < (0.2 if path == "builtin" else 1.0)
