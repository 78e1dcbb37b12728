"""The morphable model: shapes, derived fields, and errors that name the argument."""

import helpers_model
import jax
import numpy as np
import pytest

from twodal_jax.geometry import morphable_model


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def arguments(**changes):
    rng = np.random.default_rng(0)
    good = dict(
        mean=rng.normal(size=(3, 100)),
        basis=rng.normal(size=(50, 3, 100)),
        triangles=rng.integers(0, 100, (20, 3)),
        landmark_indices=np.arange(68),
    )
    return good | changes


def test_vertices_equal_a_loop_over_directions_and_ignore_the_pose(model):
    alpha = helpers_model.random_alpha(np.random.default_rng(1), 3)
    vertices = morphable_model.vertices_model(model, alpha)
    assert vertices.shape == (3, model.num_vertices, 3)
    expected = np.asarray(model.mean, np.float64)[None].repeat(3, 0)
    for k in range(50):
        expected += alpha[:, 12 + k, None, None].astype(np.float64) * model.basis[k]
    np.testing.assert_allclose(vertices, expected.transpose(0, 2, 1), atol=2e-6)
    alpha[:, :12] += 1
    np.testing.assert_array_equal(morphable_model.vertices_model(model, alpha), vertices)
    mapped = jax.jit(jax.vmap(morphable_model.vertices_model, (None, 0)))(model, alpha)
    np.testing.assert_allclose(mapped, vertices, atol=1e-6)


def test_landmarks_are_the_vertices_at_the_indices_also_without_the_mesh(model):
    alpha = helpers_model.random_alpha(np.random.default_rng(2), 2)
    landmarks = morphable_model.landmarks_model(model, alpha)
    vertices = morphable_model.vertices_model(model, alpha)
    np.testing.assert_allclose(landmarks, vertices[:, model.landmark_indices], atol=2e-6)
    small = morphable_model.without_mesh(model)
    assert small.num_vertices == 0
    np.testing.assert_array_equal(small.vertex_factor, model.vertex_factor)
    np.testing.assert_array_equal(morphable_model.landmarks_model(small, alpha), landmarks)


@pytest.mark.parametrize("num_vertices", [100, 400])
def test_vertex_factor_is_a_root_of_the_features_gram_matrix(num_vertices):
    rng = np.random.default_rng(5)
    mean, basis = rng.normal(size=(3, num_vertices)), rng.normal(size=(50, 3, num_vertices))
    factor = morphable_model.vertex_factor(mean, basis).astype(np.float64)
    assert factor.shape == (154, 154)
    features = np.vstack([np.ones((1, num_vertices)), mean, basis.reshape(150, num_vertices)])
    np.testing.assert_allclose(factor.T @ factor, features @ features.T / num_vertices, atol=1e-5)


def test_whitening_is_optional_and_can_be_set_later():
    model = morphable_model.create(**arguments())
    assert not model.has_whitening
    np.testing.assert_array_equal(model.alpha_std, np.ones(62))
    whitened = model.with_whitening(np.full(62, 2.0), np.full(62, 3.0))
    assert whitened.has_whitening and not model.has_whitening
    assert (whitened.alpha_mean == 2).all() and (whitened.alpha_std == 3).all()


def test_digest_changes_with_shape_and_whitening(model):
    digest = morphable_model.digest(model)
    assert digest == morphable_model.digest(helpers_model.tiny_model())
    assert digest != morphable_model.digest(model.with_whitening(model.alpha_mean, model.alpha_std * 2))
    assert digest != morphable_model.digest(helpers_model.tiny_model(seed=1))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mean": np.zeros((2, 100))}, "`mean`"),
        ({"basis": np.zeros((49, 3, 100))}, "`basis`"),
        ({"basis": np.zeros((50, 3, 99))}, "`basis`"),
        ({"triangles": np.zeros((5, 4), int)}, "`triangles`"),
        ({"triangles": np.full((5, 3), 100)}, "1-based"),
        ({"landmark_indices": np.arange(67)}, "`landmark_indices`"),
        ({"landmark_indices": np.arange(68) + 40}, "landmark_indices.*100"),
        ({"mean": np.full((3, 100), np.nan)}, "finite"),
        ({"alpha_mean": np.zeros(62)}, "both"),
        ({"alpha_mean": np.zeros(62), "alpha_std": np.zeros(62)}, "positive"),
        ({"alpha_mean": np.zeros(61), "alpha_std": np.ones(61)}, "alpha_mean"),
        ({"alpha_mean": np.zeros(62), "alpha_std": np.append(np.ones(61), np.nan)}, "alpha_std"),
    ],
)
def test_errors_name_the_wrong_argument(changes, message):
    with pytest.raises(ValueError, match=message):
        morphable_model.create(**arguments(**changes))
