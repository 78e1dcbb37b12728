"""Projection and changes of frame, against NumPy in float64."""

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.geometry import projection

IMAGE_HEIGHT = 450


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def alphas(count=3, seed=0):
    return helpers_model.random_alpha(np.random.default_rng(seed), count)


def similarity(angle_degrees, scale, shift):
    """Similarity [2, 3] float32 about the origin."""
    angle = np.deg2rad(angle_degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([linear, np.reshape(shift, (2, 1))], axis=1).astype(np.float32)


def test_vertices_and_landmarks_equal_the_float64_projection(model):
    alpha = alphas()
    vertices, landmarks = projection.vertices_crop(model, alpha), projection.landmarks_crop(model, alpha)
    assert vertices.shape == (3, model.num_vertices, 3) and vertices.dtype == jnp.float32
    assert landmarks.shape == (3, 68, 3)
    expected = np.stack([helpers_model.project_float64(model.mean, model.basis, row) for row in alpha])
    np.testing.assert_allclose(vertices, expected, atol=1e-4)
    np.testing.assert_allclose(landmarks, expected[:, model.landmark_indices], atol=1e-4)


def test_y_up_in_the_model_is_up_in_the_image_and_z_grows_towards_the_viewer(model):
    frontal = np.zeros(62, np.float32)
    frontal[[0, 5, 10]] = 30
    frontal[[3, 7]] = 60
    crop = np.asarray(projection.vertices_crop(model, frontal))
    np.testing.assert_allclose(crop[:, 0], 60 + 30 * model.mean[0], atol=1e-4)
    np.testing.assert_allclose(crop[:, 1], 121 - 60 - 30 * model.mean[1], atol=1e-4)
    np.testing.assert_allclose(crop[:, 2], 30 * model.mean[2], atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_crop_to_image_follows_the_roi_box_and_image_to_crop_inverts_it(dims):
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 120, (6, 68, dims)).astype(np.float32)
    corner = rng.uniform(-50, 200, (6, 2))
    roi_box = np.concatenate([corner, corner + rng.uniform(60, 400, (6, 2))], axis=1).astype(np.float32)
    image = projection.crop_to_image(points, roi_box)
    sx, sy, ex, ey = roi_box.T[..., None]
    # The box counts edges of pixels, the points centres: half a pixel apart, in the crop and in the image.
    np.testing.assert_allclose(image[..., 0] + 0.5, (points[..., 0] + 0.5) * (ex - sx) / 120 + sx, atol=1e-3)
    np.testing.assert_allclose(image[..., 1] + 0.5, (points[..., 1] + 0.5) * (ey - sy) / 120 + sy, atol=1e-3)
    if dims == 3:
        mean_scale = ((ex - sx) + (ey - sy)) / 240
        np.testing.assert_allclose(image[..., 2], points[..., 2] * mean_scale, atol=1e-3)
    np.testing.assert_allclose(projection.image_to_crop(image, roi_box), points, atol=1e-3)


def image_alpha_and_roi(count=5, seed=2):
    """Alpha of whole 450-pixel images (faces about 200 pixels wide) and their square boxes."""
    rng = np.random.default_rng(seed)
    alpha = alphas(count, seed)
    alpha[:, :12] *= 3
    alpha[:, [3, 7]] = rng.uniform(180, 270, (count, 2))
    corner = rng.uniform(80, 120, (count, 2))
    roi_box = np.concatenate([corner, corner + rng.uniform(200, 300, (count, 1))], axis=1)
    return alpha, roi_box.astype(np.float32)


def test_alpha_mat_to_crop_projects_to_the_same_points_and_alpha_crop_to_mat_inverts_it(model):
    alpha, roi_box = image_alpha_and_roi()
    crop_alpha = projection.alpha_mat_to_crop(alpha, roi_box, IMAGE_HEIGHT)
    found = projection.landmarks_crop(model, crop_alpha)
    for row, box, points in zip(alpha, roi_box, found):
        in_image = helpers_model.project_float64(model.landmark_mean, model.landmark_basis, row, IMAGE_HEIGHT)
        scale = np.array([box[2] - box[0], box[3] - box[1]]) / 120
        edges = in_image[:, :2] - 1 + 0.5  # the file counts centres of pixels from 1
        np.testing.assert_allclose(points[:, :2], (edges - box[:2]) / scale - 0.5, atol=2e-3)
        np.testing.assert_allclose(points[:, 2], in_image[:, 2] / scale.mean(), atol=2e-3)
    np.testing.assert_allclose(projection.alpha_crop_to_mat(crop_alpha, roi_box, IMAGE_HEIGHT), alpha, atol=2e-3)


def test_image_heights_may_differ_within_a_batch():
    alpha, roi_box = image_alpha_and_roi(2)
    heights = np.array([300.0, 700.0], np.float32)
    together = projection.alpha_mat_to_crop(alpha, roi_box, heights)
    apart = [projection.alpha_mat_to_crop(*row) for row in zip(alpha, roi_box, heights)]
    np.testing.assert_allclose(together, np.stack(apart), atol=1e-4)


@pytest.mark.parametrize("angle", [-170, -30, 0, 45, 90])
def test_transform_alpha_moves_landmarks_like_transform_points_and_keeps_a_rotation(model, angle):
    alpha = alphas()
    matrix = similarity(angle, 1.3, (5, -7))
    before, moved = projection.landmarks_crop(model, alpha), projection.transform_alpha(alpha, matrix)
    after = projection.landmarks_crop(model, moved)
    expected = np.asarray(before, np.float64)[..., :2] @ matrix[:, :2].T.astype(np.float64) + matrix[:, 2]
    np.testing.assert_allclose(after[..., :2], expected, atol=2e-4)
    np.testing.assert_allclose(after[..., 2], 1.3 * before[..., 2], atol=2e-4)
    np.testing.assert_allclose(projection.transform_points(before[..., :2], matrix), expected, atol=2e-4)
    block = np.asarray(moved[:, :12]).reshape(-1, 3, 4)[..., :3]
    gram = block @ block.transpose(0, 2, 1)
    np.testing.assert_allclose(gram / gram[:, :1, :1], np.eye(3)[None].repeat(3, 0), atol=1e-5)
    assert (np.linalg.det(block) > 0).all()


def test_roi_box_of_landmarks_is_square_about_their_centre():
    points = np.array([[10.0, 20.0], [110.0, 50.0], [60.0, 220.0]])
    side = np.sqrt(2) * 200
    box = projection.roi_box_from_landmarks(points)
    np.testing.assert_allclose(box, [60 - side / 2, 120 - side / 2, 60 + side / 2, 120 + side / 2], rtol=1e-6)
    with_depth = np.concatenate([points, 1e6 * np.ones((3, 1))], axis=1)
    np.testing.assert_array_equal(projection.roi_box_from_landmarks(with_depth), box)


def test_roi_box_of_a_detection_is_larger_and_lower():
    box = projection.roi_box_from_detection(jnp.array([100.0, 100.0, 200.0, 220.0]))
    size = 110
    centre, side = np.array([150, 160 + 0.14 * size]), 1.58 * size
    np.testing.assert_allclose(box, [*(centre - side / 2), *(centre + side / 2)], rtol=1e-6)


def test_jit_and_vmap_agree_with_the_batch(model):
    alpha, roi_box = image_alpha_and_roi(2)
    matrix = similarity(20, 1.1, (1, 2))

    def project(model, alpha, roi_box):
        moved = projection.transform_alpha(projection.alpha_mat_to_crop(alpha, roi_box, IMAGE_HEIGHT), matrix)
        return projection.crop_to_image(projection.landmarks_crop(model, moved), roi_box)

    batch = jax.jit(project)(model, alpha, roi_box)
    np.testing.assert_allclose(jax.vmap(project, (None, 0, 0))(model, alpha, roi_box), batch, atol=1e-3)


def test_gradients_are_finite(model):
    gradient = jax.grad(lambda a: projection.landmarks_crop(model, a).sum())(jnp.asarray(alphas()))
    assert np.isfinite(gradient).all()
