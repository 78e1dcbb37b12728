"""Left-right symmetry of a 3D morphable model: coefficients of the mirrored face.

A mirrored photo shows the mirrored face. Its coefficients are a linear map of the original's, computed once by least
squares over all vertices; pose and image mirror exactly. BFM's mesh is symmetric in shape but not in its vertex order,
so left and right vertices are paired through the mean shape.
"""

import numpy as np
import scipy.spatial

from twodal_jax.geometry.coefficients import NUM_POSE
from twodal_jax.geometry.morphable_model import MorphableModel, NUM_DIRECTIONS

FLIP_X = np.array([-1.0, 1.0, 1.0])
MAX_ERROR = 0.02  # fraction of the face's size


def paired_vertices(mean: np.ndarray) -> np.ndarray:
    """Index [N] of the vertex nearest to each vertex's mirror image; mean [3, N].

    The plane of symmetry is x = const; its position is estimated together with the pairs.
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
      mean: [3, N], model frame; the mirror turns x into -x.
      basis: [50, 3, N].

    Returns:
      X, float64: alpha are the 50 raw shape and expression coefficients, shift [3] is in model units.
      Gram matrix G [51, 51], float64, of the residuals of the directions and the mean, averaged over vertices: a face's
      mean squared distance to its mirror image is [alpha; 1]^T G [alpha; 1].
    """
    mean, basis = np.asarray(mean, np.float64), np.asarray(basis, np.float64)
    num_vertices = mean.shape[-1]
    pairs = paired_vertices(mean)
    directions = basis.reshape(NUM_DIRECTIONS, -1)
    shifts = np.repeat(np.eye(3)[:, :, None], num_vertices, axis=2).reshape(3, -1)
    unknowns = np.concatenate([directions, shifts])
    norms = np.linalg.norm(unknowns, axis=1)[:, None]
    norms = np.where(norms > 0, norms, 1.0)
    unknowns /= norms  # in place, as below: each of these arrays has 25 MB
    targets = np.concatenate([basis, mean[None]])[:, :, pairs]
    targets *= FLIP_X[:, None]
    targets[-1] -= mean
    targets = targets.reshape(NUM_DIRECTIONS + 1, -1)
    solution = np.linalg.lstsq(unknowns @ unknowns.T, unknowns @ targets.T, rcond=1e-10)[0]
    targets -= solution.T @ unknowns
    return solution / norms, targets @ targets.T / num_vertices


def with_mirror(model: MorphableModel) -> MorphableModel:
    """The model, which must have a whitening, with the `mirror_map` that mirrored faces need.

    Raises:
      ValueError: the model is not symmetric about a plane x = const: for faces distributed as the whitening states, the
        root-mean-square error of mirrored ones exceeds `MAX_ERROR` of the face's size.
    """
    matrix, gram = mirror_map(model.mean, model.basis)
    mean, std = (np.asarray(a, np.float64)[NUM_POSE:] for a in (model.alpha_mean, model.alpha_std))
    typical = np.append(mean, 1.0)
    squared = typical @ gram @ typical + np.square(std) @ np.diag(gram)[:-1]
    error = np.sqrt(squared / np.prod(np.ptp(model.mean[:2], axis=1)))
    if not error <= MAX_ERROR:
        raise ValueError(
            f"The morphable model is not symmetric: the error of mirrored faces is {error:.1%} of the face's size, "
            f"expected at most {MAX_ERROR:.0%}. Set config.augmentation.mirror_annotated to 0 and"
            " config.mirror_prediction to False."
        )
    return model.replace(mirror_map=matrix.astype(np.float32))
