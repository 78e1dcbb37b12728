"""The 3D morphable model as a pytree of arrays, and shapes from its coefficients.

    S = mean + sum_k basis_k alpha_k      (paper, Section III-A)

The basis is stored as coordinate planes, [50, 3, N], because one matrix product over planes is the fastest way to a
mesh; functions return meshes as [..., N, 3]. `face_models.load` reads files.
"""

import hashlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.geometry import coefficients

NUM_LANDMARKS = 68
OUTER_EYE_CORNERS = (36, 45)  # of the 68
NUM_DIRECTIONS = coefficients.NUM_SHAPE + coefficients.NUM_EXPRESSION


@flax.struct.dataclass
class MorphableModel:
    """A linear face model with the whitening of its coefficients.

    Model frame: x to the right in the image of a frontal face, y up, z towards the viewer; the unit is the file's (BFM:
    micrometres).

    Attributes:
      mean: [3, N] float32, the mean shape (identity plus expression mean).
      basis: [50, 3, N] float32, 40 shape directions, then 10 expression directions.
      triangles: [T, 3] int32, 0-based, counter-clockwise seen from outside.
      landmark_indices: [68] int32, vertices of the 68 landmarks in iBUG order.
      alpha_mean, alpha_std: [62] float32, whitening of the network's regression target.
      landmark_mean: [3, 68], landmark_basis: [50, 3, 68], `mean` and `basis` at the landmarks.
      vertex_factor: [154, 154] float32, R with R^T R = the Gram matrix of the vertices' features divided by N; makes
        the dense vertex distance a small matrix product (`losses.loss_vdc`).
      mirror_map: [53, 51] float32, coefficients of the mirrored face (`geometry.symmetry`); empty, [0, 51], until
        `symmetry.with_mirror` fills it.
      has_whitening: whether alpha_mean and alpha_std came with the model (static).
    """

    mean: jax.Array
    basis: jax.Array
    triangles: jax.Array
    landmark_indices: jax.Array
    alpha_mean: jax.Array
    alpha_std: jax.Array
    landmark_mean: jax.Array
    landmark_basis: jax.Array
    vertex_factor: jax.Array
    mirror_map: jax.Array
    has_whitening: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def num_vertices(self) -> int:
        """N; 0 for a model without its mesh."""
        return self.mean.shape[-1]

    def with_whitening(self, alpha_mean: np.ndarray, alpha_std: np.ndarray) -> "MorphableModel":
        """The same model with another whitening, both [62].

        Raises:
          ValueError: another shape, or an entry of `alpha_std` that is not positive.
        """
        alpha_mean, alpha_std = np.asarray(alpha_mean, np.float32), np.asarray(alpha_std, np.float32)
        _check_shape("alpha_mean", alpha_mean, (coefficients.NUM_COEFFICIENTS,))
        _check_shape("alpha_std", alpha_std, (coefficients.NUM_COEFFICIENTS,))
        if not (alpha_std > 0).all():
            raise ValueError("`alpha_std` must be positive in all 62 entries.")
        return self.replace(alpha_mean=alpha_mean, alpha_std=alpha_std, has_whitening=True)


def _check_shape(name: str, array: np.ndarray, expected: tuple) -> None:
    if array.shape != expected:
        raise ValueError(f"Expected `{name}` of shape {expected}, got {array.shape}.")


def vertex_factor(mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Upper factor R, [154, 154], of the vertices' features phi_n = [1, mean_n, basis_1n, ..., basis_50n].

    A vertex is projected as a 3x154 matrix times phi_n, so the mean squared distance between two projections of all N
    vertices is the squared norm of (their difference) R^T, summed over rows. mean [3, N], basis [50, 3, N]; computed in
    float64.
    """
    num_vertices = mean.shape[-1]
    features = np.concatenate([np.ones((1, num_vertices)), mean, basis.reshape(-1, num_vertices)])
    features = features.astype(np.float64) / np.sqrt(num_vertices)
    size = np.linalg.norm(features, axis=1)
    features /= np.where(size > 0, size, 1.0)[:, None]
    # From the Gram matrix of normalised features: squaring in float64 loses less than storing in float32, and one
    # matrix product is much faster than a QR of N rows.
    eigenvalues, vectors = np.linalg.eigh(features @ features.T)
    root = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * vectors.T
    return np.linalg.qr(root * size, mode="r").astype(np.float32)


def create(
    mean: np.ndarray,
    basis: np.ndarray,
    triangles: np.ndarray,
    landmark_indices: np.ndarray,
    alpha_mean: np.ndarray | None = None,
    alpha_std: np.ndarray | None = None,
) -> MorphableModel:
    """MorphableModel from NumPy arrays, with its derived fields computed.

    Args:
      mean: [3, N].
      basis: [50, 3, N].
      triangles: [T, 3], 0-based.
      landmark_indices: [68].
      alpha_mean: [62] mean of the whitening, or None: 0, with `has_whitening` False until `with_whitening` sets both.
      alpha_std: [62] standard deviation, or None: 1; None exactly if `alpha_mean` is.

    Raises:
      ValueError: the shape or range of an argument is wrong; the message names it.
    """
    mean, basis = np.asarray(mean, np.float32), np.asarray(basis, np.float32)
    triangles = np.ascontiguousarray(triangles, np.int32)
    landmark_indices = np.asarray(landmark_indices, np.int32)
    num_vertices = mean.shape[-1]
    _check_shape("mean", mean, (3, num_vertices))
    _check_shape("basis", basis, (NUM_DIRECTIONS, 3, num_vertices))
    _check_shape("triangles", triangles, (len(triangles), 3))
    _check_shape("landmark_indices", landmark_indices, (NUM_LANDMARKS,))
    for name, index in (("triangles", triangles), ("landmark_indices", landmark_indices)):
        if index.size and (index.min() < 0 or index.max() >= num_vertices):
            raise ValueError(
                f"`{name}` must lie in [0, {num_vertices}), got {index.min()} to {index.max()}; is the file 1-based?"
            )
    if not (np.isfinite(mean).all() and np.isfinite(basis).all()):
        raise ValueError("`mean` and `basis` must be finite.")
    model = MorphableModel(
        mean=mean,
        basis=basis,
        triangles=triangles,
        landmark_indices=landmark_indices,
        alpha_mean=np.zeros(coefficients.NUM_COEFFICIENTS, np.float32),
        alpha_std=np.ones(coefficients.NUM_COEFFICIENTS, np.float32),
        landmark_mean=mean[:, landmark_indices],
        landmark_basis=np.ascontiguousarray(basis[:, :, landmark_indices]),
        vertex_factor=vertex_factor(mean, basis),
        mirror_map=np.zeros((0, NUM_DIRECTIONS + 1), np.float32),
        has_whitening=False,
    )
    if (alpha_mean is None) != (alpha_std is None):
        raise ValueError("Give both `alpha_mean` and `alpha_std`, or neither.")
    return model if alpha_mean is None else model.with_whitening(alpha_mean, alpha_std)


def without_mesh(model: MorphableModel) -> MorphableModel:
    """The model with empty dense arrays, 32 MB smaller, which is enough for a training step.

    `landmarks_model`, the projection of landmarks and the closed-form vertex distance still work.
    """
    return model.replace(mean=model.mean[:, :0], basis=model.basis[:, :, :0], triangles=model.triangles[:0])


def _linear_shape(mean: jax.Array, basis: jax.Array, alpha: jax.Array) -> jax.Array:
    _, shape, expression = coefficients.split(alpha)
    weights = jnp.concatenate([shape, expression], axis=-1)
    planes = jnp.matmul(weights, basis.reshape(NUM_DIRECTIONS, -1), precision=jax.lax.Precision.HIGHEST)
    planes = planes.reshape(*alpha.shape[:-1], 3, -1) + mean
    return jnp.swapaxes(planes, -1, -2)


def vertices_model(model: MorphableModel, alpha: jax.Array) -> jax.Array:
    """S of Section III-A: alpha [..., 62] (raw) -> [..., N, 3], model frame and unit."""
    return _linear_shape(model.mean, model.basis, alpha)


def landmarks_model(model: MorphableModel, alpha: jax.Array) -> jax.Array:
    """The 68 landmarks of S: alpha [..., 62] (raw) -> [..., 68, 3], model frame and unit."""
    return _linear_shape(model.landmark_mean, model.landmark_basis, alpha)


def same_mesh(a: MorphableModel, b: MorphableModel) -> bool:
    """Whether the vertices of two models correspond, and equal coefficients give equal shapes."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("mean", "basis", "landmark_indices"))


def digest(model: MorphableModel) -> str:
    """SHA-256 of all arrays that the network's output depends on: shape, landmarks, whitening."""
    arrays = (model.mean, model.basis, model.landmark_indices, model.alpha_mean, model.alpha_std)
    hasher = hashlib.sha256()
    for array in arrays:
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()
