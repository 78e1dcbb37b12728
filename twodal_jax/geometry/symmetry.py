"""The left-right symmetry of a 3D morphable model: coefficients of the mirrored face.

A mirrored photo shows the mirrored face. Its coefficients are found once and for all by least squares
over all vertices, as a linear map; pose and image mirror exactly. BFM's mesh is symmetric in shape, not
in its list of vertices, so left and right vertices are paired through the mean shape.
"""

import numpy as np
import scipy.spatial

from twodal_jax.geometry.coefficients import NUM_POSE
from twodal_jax.geometry.morphable_model import MorphableModel, NUM_DIRECTIONS

FLIP_X = np.array([-1.0, 1.0, 1.0])
MAX_ERROR = 0.02  # of the face's size


def paired_vertices(mean: np.ndarray) -> np.ndarray:
    """[N] int: for each vertex of mean [3, N] the one nearest to its mirror image.

    The plane of symmetry is x = const; its place is found along with the pairs.
    """
    tree = scipy.spatial.cKDTree(mean.T)
    shift = mean[0].min() + mean[0].max()
    for _ in range(20):
        mirrored = mean * FLIP_X[:, None]
        mirrored[0] += shift
        pairs = tree.query(mirrored.T)[1]
        previous, shift = shift, float((mean[0] + mean[0, pairs]).mean())
        if abs(shift - previous) < 1e-6 * np.ptp(mean[0]):
            break
    return pairs


def mirror_map(mean: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map X [53, 51] with  mirror(S(alpha)) = S(alpha') + shift,  [alpha'; shift] = X [alpha; 1].

    Args:
      mean: [3, N], basis: [50, 3, N] of a model (model frame; the mirror turns x into -x).

    Returns:
      X (alpha: the 50 shape and expression coefficients, raw; shift [3]: model units), and what it
      leaves of each direction and of the mean, as a Gram matrix over vertices: [51, 51], so that a
      face's mean squared distance to its mirror image is [alpha; 1]^T G [alpha; 1]. Both float64.
    """
    mean, basis = np.asarray(mean, np.float64), np.asarray(basis, np.float64)
    num_vertices = mean.shape[-1]
    pairs = paired_vertices(mean)
    directions = basis.reshape(NUM_DIRECTIONS, -1)
    shifts = np.repeat(np.eye(3)[:, :, None], num_vertices, axis=2).reshape(3, -1)
    unknowns = np.concatenate([directions, shifts])
    norms = np.linalg.norm(unknowns, axis=1)[:, None]
    norms = np.where(norms > 0, norms, 1.0)
    unknowns = unknowns / norms
    targets = np.concatenate([basis, mean[None]])[:, :, pairs] * FLIP_X[:, None]
    targets[-1] -= mean
    targets = targets.reshape(NUM_DIRECTIONS + 1, -1)
    solution = np.linalg.lstsq(unknowns @ unknowns.T, unknowns @ targets.T, rcond=1e-10)[0]
    left = targets - solution.T @ unknowns
    return solution / norms, left @ left.T / num_vertices


def with_mirror(model: MorphableModel) -> MorphableModel:
    """The model (with whitening) with its `mirror_map`, which mirrored annotated faces need.

    Raises:
      ValueError: the model is not symmetric about a plane x = const: for faces spread as the whitening
        says, mirrored ones miss it by more than `MAX_ERROR` (root mean square) of the face's size.
    """
    matrix, left = mirror_map(model.mean, model.basis)
    mean, std = (np.asarray(a, np.float64)[NUM_POSE:] for a in (model.alpha_mean, model.alpha_std))
    typical = np.append(mean, 1.0)
    squared = typical @ left @ typical + np.square(std) @ np.diag(left)[:-1]
    error = np.sqrt(squared / np.prod(np.ptp(model.mean[:2], axis=1)))
    if not error <= MAX_ERROR:
        raise ValueError(
            f"The morphable model is not symmetric: mirrored faces miss it by {error:.1%} of the face's "
            f"size (at most {MAX_ERROR:.0%} expected). Set config.augmentation.mirror_annotated to 0."
        )
    return model.replace(mirror_map=matrix.astype(np.float32))
