"""twodal_jax.reconstruction.one_euro: less jitter, little lag, and rotations stay rotations."""

import numpy as np
import pytest
from helpers_model import random_rotation, tiny_model

from twodal_jax.geometry import projection
from twodal_jax.reconstruction import one_euro

RATE, HEIGHT = 25.0, 480


def filtered(values, *arguments, **options):
    smooth = one_euro.OneEuroFilter(*arguments, **options)
    return np.array([smooth(value, 1 / RATE) for value in values])


def reference_one_euro(values, min_cutoff, beta, d_cutoff):
    """The paper's algorithm for one number, step by step."""

    def alpha(cutoff):
        return 1 / (1 + (1 / (2 * np.pi * cutoff)) * RATE)

    smooth, speed, result = values[0], 0.0, [values[0]]
    for value in values[1:]:
        speed = alpha(d_cutoff) * (value - smooth) * RATE + (1 - alpha(d_cutoff)) * speed
        a = alpha(min_cutoff + beta * abs(speed))
        smooth = a * value + (1 - a) * smooth
        result.append(smooth)
    return np.array(result)


def test_the_filter_agrees_with_the_papers_algorithm():
    values = np.random.default_rng(0).normal(size=(50, 3)).cumsum(axis=0)
    found = filtered(values, 1.3, 0.7, 0.9)
    for i in range(3):
        np.testing.assert_allclose(found[:, i], reference_one_euro(values[:, i], 1.3, 0.7, 0.9), rtol=1e-10)


def test_constants_are_unchanged_and_a_common_speed_keeps_directions():
    np.testing.assert_array_equal(filtered(np.ones((10, 4)), 1.0), np.ones((10, 4)))
    line = np.linspace(0, 1, 30)[:, None] * [1.0, 10.0]
    smooth = filtered(line, 1.0, 2.0, together=True)
    np.testing.assert_allclose(smooth[:, 1], 10 * smooth[:, 0], rtol=1e-10)


def test_the_polar_parts_are_a_rotation_and_a_symmetric_scale():
    rng = np.random.default_rng(3)
    for rotation in random_rotation(rng, 20):
        matrix = rotation @ np.diag(rng.uniform(0.9, 1.1, 3)) * 0.01 + rng.normal(0, 1e-4, (3, 3))
        turn, scale = one_euro.polar(matrix)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) > 0.99
        np.testing.assert_allclose(scale, scale.T, atol=1e-12)
        np.testing.assert_allclose(turn @ scale, matrix, atol=1e-14)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def turned(yaw, roll):
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_y


def true_alphas(num_frames, moves, std):
    """[T, 62] of a whole image: a head at rest for two seconds that then rotates and moves by `moves`."""
    rng = np.random.default_rng(1)
    shape = rng.normal(0, 0.5, 40) * std[12:52]
    alphas = []
    for t in np.arange(num_frames) / RATE:
        phase = max(0.0, t - 2.0) * moves
        pose = np.zeros((3, 4))
        pose[:, :3] = 80 * turned(0.6 * np.sin(3 * phase), 0.3 * np.sin(2 * phase))
        pose[:, 3] = [300 + 90 * np.sin(2 * phase), 240 + 20 * np.sin(3 * phase), 0]
        expression = 0.5 * np.sin(4 * phase) * std[52:]
        alphas.append(np.concatenate([pose.ravel(), shape, expression]))
    return np.array(alphas, np.float32)


def boxes_around(alphas, rng, noise):
    centres = np.stack([alphas[:, 3], HEIGHT + 1 - alphas[:, 7]], axis=1) + rng.normal(0, noise, (len(alphas), 2))
    half = 110 * np.exp(rng.normal(0, noise / 100, (len(alphas), 1)))
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def landmarks(model, alphas, roi_boxes):
    return np.asarray(projection.crop_to_image(projection.landmarks_crop(model, alphas), roi_boxes))[..., :2]


def run(model, moves, num_frames=150, noise=1.0, **options):
    """True, noisy and smoothed landmarks [T, 68, 2] in the image; smoothed alpha and boxes."""
    rng, std = np.random.default_rng(2), np.asarray(model.alpha_std, np.float64)
    truth = true_alphas(num_frames, moves, std)
    roi_boxes = boxes_around(truth, rng, 3.0 * noise)
    crops = np.asarray(projection.alpha_mat_to_crop(truth, roi_boxes, HEIGHT))
    scale = np.concatenate([np.tile([0.01, 0.01, 0.01, 0.0], 3) * 44, 0.15 * std[12:]])
    scale[[3, 7]] = 1.0  # crop pixels
    noisy = (crops + noise * rng.normal(size=crops.shape) * scale).astype(np.float32)
    smoother = one_euro.FaceSmoother(model, **options)
    smooth = [smoother(alpha, box, HEIGHT, 1 / RATE) for alpha, box in zip(noisy, roi_boxes)]
    alphas, boxes = map(np.stack, zip(*smooth))
    pairs = (crops, roi_boxes), (noisy, roi_boxes), (alphas, boxes)
    return [*(landmarks(model, *pair) for pair in pairs), alphas, boxes]


def jitter(points):
    """Mean length of the second difference, pixels."""
    return np.linalg.norm(np.diff(points, 2, axis=0), axis=-1).mean()


def test_a_face_at_rest_without_noise_is_unchanged(model):
    truth, _, smooth, _, _ = run(model, moves=0, noise=0.0)
    np.testing.assert_allclose(smooth, truth, atol=0.02)


def test_the_jitter_of_a_face_at_rest_falls_to_a_quarter(model):
    truth, noisy, smooth, _, _ = run(model, moves=0)
    assert jitter(smooth[25:]) < 0.25 * jitter(noisy[25:])
    errors = [np.linalg.norm(points - truth, axis=-1)[25:].mean() for points in (noisy, smooth)]
    assert errors[1] < 0.6 * errors[0]


def test_a_moving_face_has_less_jitter_and_lags_by_two_frames_at_most(model):
    truth, noisy, smooth, _, _ = run(model, moves=1)
    assert jitter(smooth[60:]) < 0.6 * jitter(noisy[60:])
    centres = [points.mean(axis=1)[60:] for points in (truth, smooth)]
    misfit = [np.abs(centres[0][5 - lag : len(centres[0]) - lag] - centres[1][5:]).mean() for lag in range(6)]
    assert np.argmin(misfit) <= 2
    size = np.ptp(truth[0], axis=0).max()
    assert np.linalg.norm(smooth - truth, axis=-1)[60:].mean() < 0.06 * size


def test_the_rotation_stays_a_rotation_in_fast_motion(model):
    _, _, _, alphas, boxes = run(model, moves=3, noise=2.0)
    image = np.asarray(projection.alpha_crop_to_mat(alphas, boxes, HEIGHT))
    for alpha in image:
        sizes = np.linalg.svd(alpha[:12].reshape(3, 4)[:, :3], compute_uv=False)
        assert sizes.min() > 0.85 * 80 and sizes.max() < 1.15 * 80
    assert np.isfinite(alphas).all()


def test_the_shape_converges(model):
    _, _, _, alphas, _ = run(model, moves=1)
    assert np.abs(np.diff(alphas[75:, 12:52], axis=0)).mean() < 0.01 * np.asarray(model.alpha_std)[12:52].mean()
