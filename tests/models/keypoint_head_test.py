"""Spatial softmax: keypoints are the mean positions of the score maps."""

import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.models.keypoint_head import spatial_softmax


def spot(row, column, height=15, width=15, strength=30.0):
    scores = np.zeros((1, height, width, 1), np.float32)
    scores[0, row, column, 0] = strength
    return scores


def keypoints(scores):
    """Positions [K, 2] (x, y) of the first face."""
    return np.asarray(spatial_softmax(jnp.asarray(scores)))[0].reshape(2, -1).T


@pytest.mark.parametrize("row, column", [(0, 0), (14, 14), (7, 7), (3, 10)])
def test_a_single_spot_is_at_its_own_position(row, column):
    np.testing.assert_allclose(keypoints(spot(row, column))[0], [column / 7 - 1, row / 7 - 1], atol=1e-5)


def test_a_constant_map_gives_the_centre_and_two_equal_spots_their_middle():
    np.testing.assert_allclose(keypoints(np.full((1, 15, 8, 3), 5.0, np.float32)), 0.0, atol=1e-6)
    scores = spot(2, 4) + spot(10, 6)
    np.testing.assert_allclose(keypoints(scores), keypoints(scores + 100.0), atol=1e-5)
    np.testing.assert_allclose(keypoints(scores)[0], [5 / 7 - 1, 6 / 7 - 1], atol=1e-5)


def test_keypoints_move_with_the_map():
    rng = np.random.default_rng(0)
    scores = np.full((1, 15, 15, 4), -30.0, np.float32)
    scores[:, 3:9, 2:8] = rng.normal(size=(1, 6, 6, 4))
    moved = np.roll(scores, (4, 5), axis=(1, 2))
    np.testing.assert_allclose(keypoints(moved) - keypoints(scores), np.tile([5 / 7, 4 / 7], (4, 1)), atol=1e-4)


def test_channels_and_faces_are_independent():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3, 15, 15, 5)).astype(np.float32)
    together = np.asarray(spatial_softmax(jnp.asarray(scores))).reshape(3, 2, 5)
    for face in range(3):
        for channel in range(5):
            alone = keypoints(scores[face : face + 1, :, :, channel : channel + 1])[0]
            np.testing.assert_allclose(together[face, :, channel], alone, atol=1e-5)
