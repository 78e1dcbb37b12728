"""Random faces of the built-in model: whitening, poses and crops."""

import jax.numpy as jnp
import numpy as np

from twodal_jax.face_models import cc0_head, sampling
from twodal_jax.geometry import coefficients, projection


def samples(seed, count, **options):
    rng, head = np.random.default_rng(seed), cc0_head.load()
    return np.stack([sampling.sample_alpha(rng, head, **options) for _ in range(count)])


def test_the_whitening_of_the_model_is_that_of_samples():
    model = cc0_head.load().model
    whitened = np.asarray(coefficients.whiten(samples(5, 1000), model.alpha_mean, model.alpha_std))
    assert np.abs(whitened.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(whitened.std(axis=0), 1.0, atol=0.2)


def test_sampled_poses_cover_all_yaw_bins_and_keep_the_face_in_the_crop():
    alphas = samples(6, 300, jitter=0.0)
    pose = coefficients.decompose_pose(jnp.asarray(alphas[:, :12].reshape(-1, 3, 4)))
    pitch, yaw, roll = np.degrees(np.asarray(pose.euler_angles)).T
    clear = np.abs(yaw) < 80  # pitch and roll are ambiguous in profile
    assert np.abs(pitch[clear]).max() < 25.5 and np.abs(roll[clear]).max() < 25.5
    shares = np.histogram(np.abs(yaw), [0, 30, 60, 90.1])[0] / len(yaw)
    assert (shares > 0.2).all()
    boxes = np.asarray(projection.roi_box_from_landmarks(projection.landmarks_crop(cc0_head.load().model, alphas)))
    np.testing.assert_allclose(boxes, np.tile([0, 0, 120, 120], (300, 1)), atol=2e-3)


def test_rotation_equals_that_of_coefficients():
    angles = np.array([0.3, -0.7, 0.2])
    expected = np.asarray(coefficients.rotation_from_euler(jnp.asarray(angles)))
    np.testing.assert_allclose(sampling.rotation(*angles), expected, atol=1e-6)
