"""Learnt offsets between two conventions of landmarks: exact in every pose, and found from wild faces alone."""

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


def other_convention(model, alpha, offsets):
    """[B, P, 2]: the landmarks of a mesh whose points lie `offsets` [P, 3] (model's frame) elsewhere, float64."""
    first, second = (
        np.concatenate([indices, [2, 14, 8]])[: len(offsets)]
        for indices in (heatmap.LANDMARK_PAIRS_68[:, 0], heatmap.LANDMARK_PAIRS_68[:, 1])
    )
    found = []
    for row in np.asarray(alpha, np.float64):
        points = np.asarray(model.landmark_mean, np.float64) + np.einsum(
            "k,kin->in", row[12:], np.asarray(model.landmark_basis, np.float64)
        )
        points = (points[:, first] + points[:, second]) / 2 + offsets.T
        pose = row[:12].reshape(3, 4)
        x, y, _ = pose[:, :3] @ points + pose[:, 3:]
        found.append(np.stack([x, 121 - y], axis=-1))
    return np.stack(found)


def unit(model):
    eyes = np.asarray(model.landmark_mean)[:, [36, 45]]
    return 0.1 * np.linalg.norm(eyes[:, 0] - eyes[:, 1])


@pytest.mark.parametrize("jaw", [False, True])
def test_marked_landmarks_are_those_of_a_mesh_whose_points_lie_elsewhere(model, jaw):
    rng = np.random.default_rng(0)
    alpha, offsets = helpers_model.random_alpha(rng, 5), rng.normal(size=(21 if jaw else 18, 3))
    result = reconstruction(model, alpha)
    found = landmark_offsets.landmarks_as_marked(result, jnp.asarray(offsets), model, jaw=jaw)
    np.testing.assert_allclose(found, other_convention(model, alpha, unit(model) * offsets), atol=1e-3)


def test_no_offsets_and_offsets_of_zero_are_the_meshs_landmarks(model):
    alpha = helpers_model.random_alpha(np.random.default_rng(0), 2)
    result = reconstruction(model, alpha)
    for offsets in (None, jnp.zeros((18, 3))):
        found = landmark_offsets.landmarks_as_marked(result, offsets, model)
        np.testing.assert_allclose(found, helpers_model.true_landmarks_18(model, alpha), atol=1e-4)


def test_the_convention_of_marked_faces_is_found_back(model):
    rng = np.random.default_rng(1)
    alpha, true = helpers_model.random_alpha(rng, 200), rng.normal(size=(18, 3)).astype(np.float32)
    marked = jnp.asarray(other_convention(model, alpha, unit(model) * true) + rng.normal(size=(200, 18, 2)))
    result = reconstruction(model, alpha)
    optimizer = optax.adam(optax.exponential_decay(0.1, 300, 0.01))

    def loss(offsets):
        found = landmark_offsets.landmarks_as_marked(result, offsets, model)
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
    assert pixels.mean() < 0.25  # from noise of 1 pixel


def test_a_step_moves_the_offsets_where_they_are_learnt_and_the_regressor_sees_nothing_of_them(model):
    batch = helpers_model.tiny_batch(model)
    losses_used = helpers_model.STAGE2_LOSSES | {"loss_2d_con": 0.01}
    plain = helpers_model.tiny_spec(losses=losses_used)
    learning = plain.replace(learn_landmark_offsets=True)
    state = create_train_state(learning, seed=0)
    assert landmark_offsets.NAME not in create_train_state(plain, seed=0).regressor.params
    step = jax.jit(functools.partial(train_step.train_step, method=learning))
    new, _ = step(state, batch, model)
    offsets = np.asarray(new.regressor.params[landmark_offsets.NAME])
    assert offsets.shape == (18, 3) and (offsets != 0).any() and np.isfinite(offsets).all()
