"""The 62 coefficients alpha: layout, whitening and pose.

Notation (paper, Section III-A; layout of 3DDFA, which the paper's authors share):

    alpha = [ pose 12 | shape 40 | expression 10 ],

where pose is the 3x4 matrix [f R | t], row by row: f the scale, R the rotation (the paper's Pi), t the translation.
The frame of the pose is y-up (`geometry.projection` lists the frames). All functions are pure and accept any number
of leading dimensions, written `...`.
"""

import flax.struct
import jax
import jax.numpy as jnp

NUM_POSE = 12
NUM_SHAPE = 40
NUM_EXPRESSION = 10
NUM_COEFFICIENTS = NUM_POSE + NUM_SHAPE + NUM_EXPRESSION
T_Z_INDEX = 11  # t_z moves no 2D point; annotations hold an arbitrary value left by their fitting


@flax.struct.dataclass
class Pose:
    """Scaled rigid motion x -> scale * rotation @ x + translation, y up.

    Attributes:
      scale: [...], pixels per model unit (the paper's f).
      rotation: [..., 3, 3], a rotation matrix (the paper's Pi).
      translation: [..., 3], pixels (the paper's t; t_z moves no 2D point).
    """

    scale: jax.Array
    rotation: jax.Array
    translation: jax.Array

    @property
    def euler_angles(self) -> jax.Array:
        """[..., 3] pitch, yaw, roll in radians; see `euler_from_rotation`."""
        return euler_from_rotation(self.rotation)


def split(alpha: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Split alpha [..., 62] into pose [..., 3, 4], shape [..., 40] and expression [..., 10].

    Raises:
      ValueError: the last axis of `alpha` has not 62 entries.
    """
    if alpha.ndim < 1 or alpha.shape[-1] != NUM_COEFFICIENTS:
        raise ValueError(
            f"Expected `alpha` of shape [..., {NUM_COEFFICIENTS}] (12 pose, 40 shape, 10 expression), "
            f"got {tuple(alpha.shape)}."
        )
    pose = alpha[..., :NUM_POSE].reshape(*alpha.shape[:-1], 3, 4)
    shape = alpha[..., NUM_POSE : NUM_POSE + NUM_SHAPE]
    expression = alpha[..., NUM_POSE + NUM_SHAPE :]
    return pose, shape, expression


def join(pose: jax.Array, shape: jax.Array, expression: jax.Array) -> jax.Array:
    """Join pose [..., 3, 4], shape [..., 40] and expression [..., 10] to alpha [..., 62]."""
    flat = pose.reshape(*pose.shape[:-2], NUM_POSE)
    return jnp.concatenate([flat, shape, expression], axis=-1)


def whiten(alpha: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """(alpha - mean) / std, the network's regression target; all [..., 62]."""
    return (alpha - mean) / std


def unwhiten(whitened: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Inverse of `whiten`."""
    return whitened * std + mean


def rotation_from_euler(angles: jax.Array) -> jax.Array:
    """Rotation R_x(pitch) R_y(yaw) R_z(roll) of 300W-LP's `Pose_Para`; angles [..., 3] in radians -> [..., 3, 3].

    R_x = [[1,0,0],[0,c,s],[0,-s,c]], R_y = [[c,0,-s],[0,1,0],[s,0,c]], R_z = [[c,s,0],[-s,c,0],[0,0,1]].
    """
    (cx, cy, cz), (sx, sy, sz) = (jnp.moveaxis(part(angles), -1, 0) for part in (jnp.cos, jnp.sin))
    rows = [
        [cy * cz, cy * sz, -sy],
        [-cx * sz + sx * sy * cz, cx * cz + sx * sy * sz, sx * cy],
        [sx * sz + cx * sy * cz, -sx * cz + cx * sy * sz, cx * cy],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def euler_from_rotation(rotation: jax.Array) -> jax.Array:
    """Inverse of `rotation_from_euler`: [..., 3, 3] -> [..., 3] pitch, yaw, roll in radians.

    Yaw lies in [-pi/2, pi/2]. At yaw = +-pi/2 (gimbal lock) only pitch +- roll is determined; roll is then 0.
    """
    sin_yaw = jnp.clip(-rotation[..., 0, 2], -1.0, 1.0)
    cos_yaw = jnp.hypot(rotation[..., 1, 2], rotation[..., 2, 2])
    locked = cos_yaw < 1e-6
    pitch = jnp.where(
        locked,
        jnp.arctan2(-rotation[..., 2, 1], rotation[..., 1, 1]),
        jnp.arctan2(rotation[..., 1, 2], rotation[..., 2, 2]),
    )
    yaw = jnp.arctan2(sin_yaw, cos_yaw)
    # From the second row of R_x^T R, which stays accurate near the lock, where the first row is almost zero.
    sin_roll = rotation[..., 1, 2] * rotation[..., 2, 0] - rotation[..., 2, 2] * rotation[..., 1, 0]
    cos_roll = rotation[..., 2, 2] * rotation[..., 1, 1] - rotation[..., 1, 2] * rotation[..., 2, 1]
    roll = jnp.where(locked, 0.0, jnp.arctan2(sin_roll, cos_roll))
    return jnp.stack([pitch, yaw, roll], axis=-1)


def compose_pose(pose: Pose) -> jax.Array:
    """Pose -> the 3x4 matrix [f R | t] of alpha, [..., 3, 4]."""
    scaled = pose.scale[..., None, None] * pose.rotation
    return jnp.concatenate([scaled, pose.translation[..., None]], axis=-1)


def decompose_pose(matrix: jax.Array) -> Pose:
    """Decompose [f R | t], [..., 3, 4]; exact if the left 3x3 block is a scaled rotation.

    A regressed block is only approximately one. Scale is then the mean length of its first two rows, those that
    project to the image. The rotation comes from their directions by symmetric orthogonalisation, which prefers
    neither row, and their cross product.
    """
    first, second = matrix[..., 0, :3], matrix[..., 1, :3]
    length_1 = jnp.linalg.norm(first, axis=-1, keepdims=True)
    length_2 = jnp.linalg.norm(second, axis=-1, keepdims=True)
    first, second = first / length_1, second / length_2
    # The bisectors of two unit vectors are orthogonal; rotated by 45 degrees they are the nearest orthonormal pair.
    sum_, difference = first + second, first - second
    sum_ = sum_ / jnp.linalg.norm(sum_, axis=-1, keepdims=True)
    difference = difference / jnp.linalg.norm(difference, axis=-1, keepdims=True)
    first, second = (sum_ + difference) / jnp.sqrt(2.0), (sum_ - difference) / jnp.sqrt(2.0)
    rotation = jnp.stack([first, second, jnp.cross(first, second)], axis=-2)
    return Pose(scale=(length_1 + length_2)[..., 0] / 2.0, rotation=rotation, translation=matrix[..., 3])
