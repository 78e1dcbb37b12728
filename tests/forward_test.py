"""The walk from image and landmarks to a reconstruction, with a regressor that is a plain function."""

import functools

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax import forward
from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry import heatmap, projection


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def faces(model, count=2):
    rng = np.random.default_rng(0)
    alpha = helpers_model.random_alpha(rng, count)
    images = helpers_model.smooth_images(rng, count)
    return images, helpers_model.true_landmarks_18(model, alpha), np.ones((count, 18), np.float32), alpha


def linear_regressor(inputs, scale=1.0):
    """[B, 120, 120, 4] -> [B, 62], smooth, depending on all four channels."""
    means = inputs.reshape(inputs.shape[0], 8, 15, 8, 15, 4).mean(axis=(2, 4)).reshape(-1, 256)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(256, 62)), jnp.float32) / 16
    return scale * jnp.tanh(means @ weights)


def test_input_is_the_normalised_image_and_the_heatmap(model):
    images, landmarks, visible, _ = faces(model)
    inputs = forward.network_input(images, landmarks, visible, HeatmapSettings())
    assert inputs.shape == (2, 120, 120, 4) and inputs.dtype == jnp.float32
    np.testing.assert_allclose(inputs[..., :3], (images.astype(np.float64) - 127.5) / 128, atol=1e-6)
    np.testing.assert_array_equal(inputs[..., 3:], heatmap.heatmap(landmarks, visible))


@pytest.mark.parametrize("settings", [HeatmapSettings(kind="points"), HeatmapSettings(sigma=3.0)])
def test_heatmap_settings_reach_the_input(model, settings):
    images, landmarks, visible, _ = faces(model)
    inputs = forward.network_input(images, landmarks, visible, settings)
    expected = heatmap.heatmap(landmarks, visible, kind=settings.kind, sigma=settings.sigma)
    np.testing.assert_array_equal(inputs[..., 3:], expected)


def test_a_disabled_heatmap_is_empty_whatever_the_landmarks(model):
    images, landmarks, visible, _ = faces(model)
    inputs = forward.network_input(images, landmarks, visible, HeatmapSettings(enabled=False))
    np.testing.assert_array_equal(inputs[..., 3], -1)


def test_reconstruction_is_unwhitened_and_projected(model):
    _, landmarks, _, alpha = faces(model)
    whitened = jnp.asarray((alpha - model.alpha_mean) / model.alpha_std)
    result = forward.reconstruct(whitened, model)
    np.testing.assert_allclose(result.alpha, alpha, atol=1e-4)
    np.testing.assert_allclose(result.landmarks, projection.landmarks_crop(model, alpha), atol=1e-3)
    assert result.landmarks.shape == (2, 68, 3) and result.landmarks_18.shape == (2, 18, 2)
    np.testing.assert_allclose(result.landmarks_18, landmarks, atol=1e-3)


def test_a_second_pass_sees_the_landmarks_of_the_first(model):
    images, landmarks, visible, _ = faces(model)
    walk = functools.partial(forward.forward_passes, linear_regressor, model=model, settings=HeatmapSettings())
    first = walk(images, landmarks, visible)
    second = walk(images, landmarks, visible, passes=2)
    by_hand = walk(images, first.landmarks_18, visible)
    np.testing.assert_allclose(second.landmarks, by_hand.landmarks, atol=1e-4)
    assert np.abs(second.whitened - first.whitened).max() > 1e-4
    hidden = np.zeros_like(visible)  # without landmarks the network supplies its own
    from_nothing = walk(images, np.full_like(landmarks, np.nan), hidden, passes=2)
    assert np.isfinite(from_nothing.landmarks).all()


def test_gradient_flows_through_the_second_heatmap_and_is_finite(model):
    images, landmarks, visible, _ = faces(model)

    @jax.jit
    @jax.grad
    def gradient(points):
        inputs = forward.network_input(jnp.asarray(images), points, jnp.asarray(visible), HeatmapSettings())
        return forward.reconstruct(linear_regressor(inputs), model).landmarks.sum()

    found = np.asarray(gradient(jnp.asarray(landmarks)))
    assert np.isfinite(found).all() and np.abs(found).max() > 0


def test_further_passes_show_the_authors_network_the_authors_mouth():
    points = np.random.default_rng(0).uniform(10, 110, (2, 68, 3)).astype(np.float32)
    authors, paper = HeatmapSettings(kind="points"), HeatmapSettings()
    np.testing.assert_allclose(authors.landmarks_18(points)[:, 16], points[:, [62, 66], :2].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(paper.landmarks_18(points)[:, 16], points[:, [48, 54], :2].mean(axis=1), rtol=1e-6)


def test_the_second_pass_draws_what_its_settings_show(model):
    """The heatmap a recording network sees in its second pass is that of its kind's 18 landmarks."""
    images = jnp.zeros((1, 120, 120, 3))
    for kind in ("points", "gaussian"):
        seen, settings = [], HeatmapSettings(kind=kind)

        def network(inputs):
            seen.append(np.asarray(inputs[..., 3]))
            return jnp.zeros((1, 62))

        nothing = jnp.zeros((1, 18, 2)), jnp.zeros((1, 18))
        result = forward.forward_passes(network, images, *nothing, model, settings, passes=2)
        expected = forward.network_input(images, settings.landmarks_18(result.landmarks), jnp.ones((1, 18)), settings)
        np.testing.assert_allclose(seen[1], expected[..., 3], atol=1e-6)
