"""Coefficients: layout, whitening and pose."""

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from twodal_jax.geometry import coefficients

HALF_PI = np.pi / 2


def rotation_float64(pitch, yaw, roll):
    """Product of the matrices R_x(pitch) R_y(yaw) R_z(roll) of the paper's data."""
    c, s = np.cos, np.sin
    x = np.array([[1, 0, 0], [0, c(pitch), s(pitch)], [0, -s(pitch), c(pitch)]])
    y = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    z = np.array([[c(roll), s(roll), 0], [-s(roll), c(roll), 0], [0, 0, 1]])
    return x @ y @ z


def random_angles(count=50, seed=0):
    rng = np.random.default_rng(seed)
    low, high = [-np.pi, -HALF_PI, -np.pi], [np.pi, HALF_PI, np.pi]
    return rng.uniform(low, high, (count, 3)).astype(np.float32)


def test_join_inverts_split_and_keeps_the_order():
    alpha = np.arange(2 * 62, dtype=np.float32).reshape(2, 62)
    pose, shape, expression = coefficients.split(jnp.asarray(alpha))
    assert pose.shape == (2, 3, 4) and shape.shape == (2, 40) and expression.shape == (2, 10)
    np.testing.assert_array_equal(pose[0], np.arange(12).reshape(3, 4))
    assert shape[0, 0] == 12 and expression[0, 0] == 52
    np.testing.assert_array_equal(coefficients.join(pose, shape, expression), alpha)


@pytest.mark.parametrize("shape", [(61,), (2, 63), (62, 2), ()])
def test_split_rejects_other_lengths_and_names_both_shapes(shape):
    with pytest.raises(ValueError, match=r"62.*got"):
        coefficients.split(jnp.zeros(shape))


def test_unwhiten_inverts_whiten():
    rng = np.random.default_rng(0)
    alpha, mean = rng.normal(size=(5, 62)), rng.normal(size=62)
    std = rng.uniform(0.1, 3, 62)
    whitened = coefficients.whiten(alpha, mean, std)
    np.testing.assert_allclose(whitened, (alpha - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(coefficients.unwhiten(whitened, mean, std), alpha, atol=1e-6)


def test_rotation_equals_the_matrix_product_and_scipy():
    angles = random_angles()
    found = coefficients.rotation_from_euler(angles)
    np.testing.assert_allclose(found, [rotation_float64(*a) for a in angles.astype(np.float64)], atol=1e-6)
    # The data's three matrices are transposes of the usual ones: rotations by the negative angle.
    expected = Rotation.from_euler("XYZ", -angles.astype(np.float64)).as_matrix()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_euler_from_rotation_inverts_rotation_from_euler():
    angles = random_angles() * np.float32(0.98)
    again = coefficients.euler_from_rotation(coefficients.rotation_from_euler(angles))
    np.testing.assert_allclose(again, angles, atol=2e-4)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("distance", [0.0, 1e-7, 1e-6, 3e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_euler_angles_reproduce_rotations_near_gimbal_lock(distance, sign):
    rng = np.random.default_rng(1)
    angles = rng.uniform(-np.pi, np.pi, (30, 3))
    angles[:, 1] = sign * (HALF_PI - distance)
    rotation = np.array([rotation_float64(*a) for a in angles])
    # Absolute errors of about 1e-7, as after arithmetic in float32.
    rotation = (rotation + rng.normal(scale=1e-7, size=rotation.shape)).astype(np.float32)
    again = coefficients.rotation_from_euler(coefficients.euler_from_rotation(rotation))
    np.testing.assert_allclose(again, rotation, atol=3e-6)


def test_decompose_pose_inverts_compose_pose():
    rng = np.random.default_rng(2)
    rotation = helpers_model.random_rotation(rng, 40).astype(np.float32)
    pose = coefficients.Pose(
        scale=rng.uniform(1e-4, 50, 40).astype(np.float32),
        rotation=rotation,
        translation=rng.normal(scale=60, size=(40, 3)).astype(np.float32),
    )
    matrix = coefficients.compose_pose(pose)
    np.testing.assert_allclose(matrix[..., :3], pose.scale[:, None, None] * rotation, rtol=1e-6)
    found = coefficients.decompose_pose(matrix)
    np.testing.assert_allclose(found.scale, pose.scale, rtol=1e-5)
    np.testing.assert_allclose(found.rotation, rotation, atol=2e-6)
    np.testing.assert_allclose(coefficients.rotation_from_euler(found.euler_angles), rotation, atol=4e-6)
    np.testing.assert_array_equal(found.translation, pose.translation)


def test_decompose_pose_of_a_noisy_block_gives_a_rotation_near_it():
    rng = np.random.default_rng(4)
    rotation = helpers_model.random_rotation(rng, 100)
    block = 30 * (rotation + rng.normal(scale=0.02, size=rotation.shape))
    matrix = np.concatenate([block, np.zeros((100, 3, 1))], axis=-1).astype(np.float32)
    pose = coefficients.decompose_pose(matrix)
    identity = np.broadcast_to(np.eye(3), (100, 3, 3))
    product = np.einsum("nij,nkj->nik", pose.rotation, pose.rotation)
    np.testing.assert_allclose(product, identity, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(pose.rotation), 1, atol=1e-6)
    np.testing.assert_allclose(pose.rotation, rotation, atol=0.15)
    np.testing.assert_allclose(pose.scale, 30, rtol=0.1)


def test_decompose_pose_treats_the_first_two_rows_alike():
    rows = np.array([[1.0, 0.1, 0.0], [0.1, 1.0, 0.0]])  # mirror images about the diagonal
    matrix = np.zeros((3, 4), np.float32)
    matrix[:2, :3] = rows
    rotation = np.asarray(coefficients.decompose_pose(matrix).rotation)
    u, _, vt = np.linalg.svd(rows, full_matrices=False)  # the nearest orthonormal pair (Procrustes)
    np.testing.assert_allclose(rotation[:2], u @ vt, atol=1e-6)


def test_functions_accept_any_leading_dimensions():
    angles = jnp.asarray(random_angles(6))
    flat = coefficients.rotation_from_euler(angles)
    shaped = jax.jit(coefficients.rotation_from_euler)(angles.reshape(2, 3, 3))
    np.testing.assert_allclose(shaped, flat.reshape(2, 3, 3, 3), atol=1e-6)
    euler = coefficients.euler_from_rotation
    np.testing.assert_allclose(jax.vmap(euler)(flat), euler(flat), atol=1e-6)
    matrix = jnp.concatenate([flat * 3, jnp.ones((6, 3, 1))], axis=-1)
    one_by_one = jax.vmap(coefficients.decompose_pose)(matrix)
    np.testing.assert_allclose(one_by_one.rotation, coefficients.decompose_pose(matrix).rotation, atol=1e-6)


def test_gradients_of_the_pose_are_finite_also_at_the_frontal_pose():
    frontal = np.zeros((1, 62), np.float32)
    frontal[0, [0, 5, 10]] = 1
    alpha = np.concatenate([helpers_model.random_alpha(np.random.default_rng(5), 8), frontal])

    @jax.jit
    @jax.grad
    def gradient(alpha):
        pose = coefficients.decompose_pose(coefficients.split(alpha)[0])
        return pose.euler_angles.sum() + pose.scale.sum() + pose.translation.sum()

    assert np.isfinite(gradient(jnp.asarray(alpha))).all()
