"""Learnt landmark offsets: exact in every pose, and learnable from wild faces alone."""

import functools

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from twodal_jax import forward, losses
from twodal_jax.geometry import heatmap, projection
from twodal_jax.training import landmark_offsets, step as train_step
from twodal_jax.training.state import create_train_state


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def reconstruction(model, alpha):
    return forward.Reconstruction(None, alpha, projection.landmarks_crop(model, alpha))


def shifted_landmarks(model, alpha, offsets):
    """Landmarks [B, P, 2] of a mesh whose points are shifted by `offsets` [P, 3] (model frame), float64."""
    first, second = (
        np.concatenate([indices, [2, 14, 8]])[: len(offsets)]
        for indices in (heatmap.LANDMARK_PAIRS_68[:, 0], heatmap.LANDMARK_PAIRS_68[:, 1])
    )
    mean, basis = (np.asarray(array, np.float64) for array in (model.landmark_mean, model.landmark_basis))
    mean, basis = ((array[..., first] + array[..., second]) / 2 for array in (mean, basis))
    return np.stack([helpers_model.project_float64(mean + offsets.T, basis, row)[:, :2] for row in alpha])


def unit(model):
    eyes = np.asarray(model.landmark_mean)[:, [36, 45]]
    return 0.1 * np.linalg.norm(eyes[:, 0] - eyes[:, 1])


@pytest.mark.parametrize("jaw", [False, True])
def test_offsets_shift_the_landmarks_in_the_models_frame(model, jaw):
    rng = np.random.default_rng(0)
    alpha, offsets = helpers_model.random_alpha(rng, 5), rng.normal(size=(21 if jaw else 18, 3))
    result = reconstruction(model, alpha)
    found = landmark_offsets.to_dataset_convention(result, jnp.asarray(offsets), model, jaw=jaw)
    np.testing.assert_allclose(found, shifted_landmarks(model, alpha, unit(model) * offsets), atol=1e-3)


def test_without_offsets_or_with_zero_offsets_landmarks_are_the_meshs(model):
    alpha = helpers_model.random_alpha(np.random.default_rng(0), 2)
    result = reconstruction(model, alpha)
    for offsets in (None, jnp.zeros((18, 3))):
        found = landmark_offsets.to_dataset_convention(result, offsets, model)
        np.testing.assert_allclose(found, helpers_model.true_landmarks_18(model, alpha), atol=1e-4)


def test_offsets_are_recovered_from_noisy_landmarks(model):
    rng = np.random.default_rng(1)
    alpha, true = helpers_model.random_alpha(rng, 200), rng.normal(size=(18, 3)).astype(np.float32)
    marked = jnp.asarray(shifted_landmarks(model, alpha, unit(model) * true) + rng.normal(size=(200, 18, 2)))
    result = reconstruction(model, alpha)
    optimizer = optax.adam(optax.exponential_decay(0.1, 300, 0.01))

    def loss(offsets):
        found = landmark_offsets.to_dataset_convention(result, offsets, model)
        return losses.loss_2d_con(found, marked.astype(jnp.float32), jnp.ones(18)).mean()

    @jax.jit
    def descend(offsets, optimizer_state):
        updates, optimizer_state = optimizer.update(jax.grad(loss)(offsets), optimizer_state)
        return optax.apply_updates(offsets, updates), optimizer_state

    offsets = jnp.zeros((18, 3))
    optimizer_state = optimizer.init(offsets)
    for _ in range(300):
        offsets, optimizer_state = descend(offsets, optimizer_state)
    pixels = 30 * unit(model) * np.abs(np.asarray(offsets) - true)
    assert pixels.mean() < 0.25  # with noise of 1 pixel


def test_a_training_step_updates_the_offsets_only_if_the_spec_learns_them(model):
    batch = helpers_model.tiny_batch(model)
    losses_used = helpers_model.STAGE2_LOSSES | {"loss_2d_con": 0.01}
    plain = helpers_model.tiny_spec(losses=losses_used)
    learning = plain.replace(learn_landmark_offsets=True)
    state = create_train_state(learning, seed=0)
    assert landmark_offsets.NAME not in create_train_state(plain, seed=0).regressor.params
    step = jax.jit(functools.partial(train_step.train_step, spec=learning))
    new, _ = step(state, batch, model)
    offsets = np.asarray(new.regressor.params[landmark_offsets.NAME])
    assert offsets.shape == (18, 3) and (offsets != 0).any() and np.isfinite(offsets).all()
