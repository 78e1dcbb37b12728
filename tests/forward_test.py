"""The forward pass from image and landmarks to a reconstruction, with a plain function as regressor."""

import functools

import flax.linen as nn
import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax import forward
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry import heatmap, projection, symmetry
from twodal_jax.geometry.morphable_model import without_mesh


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def faces(model, count=2):
    rng = np.random.default_rng(0)
    alpha = helpers_model.random_alpha(rng, count)
    images = helpers_model.smooth_images(rng, count)
    return images, helpers_model.true_landmarks_18(model, alpha), np.ones((count, 18), np.float32), alpha


def linear_regressor(inputs, scale=1.0):
    """[B, 120, 120, 4] -> [B, 62]: smooth, depends on all four channels."""
    means = inputs.reshape(inputs.shape[0], 8, 15, 8, 15, 4).mean(axis=(2, 4)).reshape(-1, 256)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(256, 62)), jnp.float32) / 16
    return scale * jnp.tanh(means @ weights)


@pytest.mark.parametrize("settings", [HeatmapSettings(), HeatmapSettings(kind="points"), HeatmapSettings(sigma=3.0)])
def test_network_input_is_the_normalised_image_and_the_heatmap_of_the_settings(model, settings):
    images, landmarks, visible, _ = faces(model)
    inputs = forward.network_input(images, landmarks, visible, settings)
    assert inputs.shape == (2, 120, 120, 4) and inputs.dtype == jnp.float32
    np.testing.assert_allclose(inputs[..., :3], (images.astype(np.float64) - 127.5) / 128, atol=1e-6)
    expected = heatmap.heatmap(landmarks, visible, kind=settings.kind, sigma=settings.sigma)
    np.testing.assert_array_equal(inputs[..., 3:], expected)
    disabled = forward.network_input(images, landmarks, visible, settings.replace(enabled=False))
    np.testing.assert_array_equal(disabled[..., 3], -1)


class Linear(nn.Module):
    def __call__(self, inputs):
        return linear_regressor(inputs)


def test_a_mirrored_crop_gets_the_mirrored_prediction_where_both_are_averaged():
    model = symmetry.with_mirror(load_morphable_model("builtin"))
    images, landmarks, visible, _ = faces(helpers_model.tiny_model(), 3)
    visible[:, ::2] = 0
    predict = functools.partial(
        forward.predict_batch, {}, model=without_mesh(model), network=Linear(), settings=HeatmapSettings()
    )
    one = predict(images, landmarks, visible, mirror=True)
    swapped = np.asarray(landmarks)[:, heatmap.MIRROR_18] * [-1, 1] + [119, 0]
    other = predict(images[:, :, ::-1], swapped, visible[:, heatmap.MIRROR_18], mirror=True)
    expected = np.asarray(one.landmarks)[:, heatmap.MIRROR_68] * [-1, 1, 1] + [119, 0, 0]
    np.testing.assert_allclose(other.landmarks, expected, atol=0.05)
    alone = predict(images, landmarks, visible)
    assert np.abs(np.asarray(alone.alpha) - one.alpha).max() > 0.1  # the network itself is not symmetric
    np.testing.assert_allclose(one.landmarks, projection.landmarks_crop(model, one.alpha), atol=1e-3)


def test_trim_margin_keeps_the_crop_and_at_most_the_stored_margin():
    images = np.arange(2 * 160 * 160 * 3).reshape(2, 160, 160, 3)
    np.testing.assert_array_equal(forward.trim_margin(images), images[:, 20:140, 20:140])
    np.testing.assert_array_equal(forward.trim_margin(images, 5), images[:, 15:145, 15:145])
    crops = images[:, :120, :120]
    for margin in (20, 50):
        np.testing.assert_array_equal(forward.trim_margin(images, margin), images)
        np.testing.assert_array_equal(forward.trim_margin(crops, margin), crops)


def test_reconstruct_unwhitens_and_projects(model):
    _, landmarks, _, alpha = faces(model)
    whitened = jnp.asarray((alpha - model.alpha_mean) / model.alpha_std)
    result = forward.reconstruct(whitened, model)
    np.testing.assert_allclose(result.alpha, alpha, atol=1e-4)
    np.testing.assert_allclose(result.landmarks, projection.landmarks_crop(model, alpha), atol=1e-3)
    assert result.landmarks.shape == (2, 68, 3) and result.landmarks_18.shape == (2, 18, 2)
    np.testing.assert_allclose(result.landmarks_18, landmarks, atol=1e-3)


def test_a_second_pass_uses_the_landmarks_of_the_first(model):
    images, landmarks, visible, _ = faces(model)
    run = functools.partial(forward.forward_passes, linear_regressor, model=model, settings=HeatmapSettings())
    first = run(images, landmarks, visible)
    second = run(images, landmarks, visible, passes=2)
    np.testing.assert_allclose(second.landmarks, run(images, first.landmarks_18, visible).landmarks, atol=1e-4)
    assert np.abs(second.whitened - first.whitened).max() > 1e-4
    without_landmarks = run(images, np.full_like(landmarks, np.nan), np.zeros_like(visible), passes=2)
    assert np.isfinite(without_landmarks.landmarks).all()


def test_gradient_flows_through_the_heatmap_and_is_finite(model):
    images, landmarks, visible, _ = faces(model)

    @jax.jit
    @jax.grad
    def gradient(points):
        inputs = forward.network_input(jnp.asarray(images), points, jnp.asarray(visible), HeatmapSettings())
        return forward.reconstruct(linear_regressor(inputs), model).landmarks.sum()

    found = np.asarray(gradient(jnp.asarray(landmarks)))
    assert np.isfinite(found).all() and np.abs(found).max() > 0


@pytest.mark.parametrize("kind, centre", [("points", [62, 66]), ("gaussian", [48, 54])])
def test_the_second_pass_draws_the_mouth_centre_of_its_heatmap_kind(model, kind, centre):
    inputs, settings = [], HeatmapSettings(kind=kind)

    def network(batch):
        inputs.append(np.asarray(batch[..., 3]))
        return jnp.zeros((1, 62))

    images, hidden = jnp.zeros((1, 120, 120, 3)), (jnp.zeros((1, 18, 2)), jnp.zeros((1, 18)))
    result = forward.forward_passes(network, images, *hidden, model, settings, passes=2)
    shown = settings.landmarks_18(result.landmarks)
    np.testing.assert_allclose(shown[:, 16], result.landmarks[:, centre, :2].mean(axis=1), rtol=1e-6)
    expected = forward.network_input(images, shown, jnp.ones((1, 18)), settings)
    np.testing.assert_allclose(inputs[1], expected[..., 3], atol=1e-6)
