"""Principal directions of faces that are weighted sums of targets, without making the faces.

Faces X = W T with random weights W [P, K] and fields T [K, N, 3] have all their second moments in those of W
[K, K], so the analysis is exact, costs a matrix of K rows, and takes any number of people.
"""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models.makehuman.head import mirrored


def motions(vertices: np.ndarray, similarity: bool) -> np.ndarray:
    """Infinitesimal motions of vertices [N, 3]: 3 shifts, 3 turns and, for a similarity, growth. [6 or 7, N, 3]."""
    shifts = np.broadcast_to(np.eye(3)[:, None, :], (3, *vertices.shape))
    turns = np.stack([np.cross(axis, vertices) for axis in np.eye(3)])
    return np.concatenate([shifts, turns, vertices[None]] if similarity else [shifts, turns])


def without_motions(fields: np.ndarray, vertices: np.ndarray, weights: np.ndarray, similarity: bool) -> np.ndarray:
    """Fields [K, N, 3] aligned to `vertices` by weighted least squares over `weights` [N].

    The motion is the first-order one: turns of a few degrees leave a second-order rest.
    """
    moves = motions(vertices, similarity)
    gram = np.einsum("inc,jnc,n->ij", moves, moves, weights)
    amounts = np.linalg.solve(gram, np.einsum("inc,knc,n->ik", moves, fields, weights))
    return fields - np.einsum("ik,inc->knc", amounts, moves)


def second_moment(weights: np.ndarray, twin: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """E[(w - mean)(w - mean)^T], [K, K], of weights [P, K] and their mirror twins (column k becomes column twin[k])."""
    centred = weights - mean
    moment = centred.T @ centred / len(weights)
    return (moment + moment[np.ix_(twin, twin)]) / 2


def principal_directions(
    fields: np.ndarray, moment: np.ndarray, weights: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` directions that explain most weighted variance.

    Args:
      fields: [K, N, 3].
      moment: [K, K], of the fields' weights.
      weights: [N], of the vertices.
      count: how many directions to return.

    Returns:
      directions [count, N, 3], each one standard deviation long, and the weighted variance of every direction
      there is, falling. The sign is that of the largest sum of cubes, so it does not depend on the solver.
    """
    values, vectors = np.linalg.eigh(moment)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T  # root^T root = moment
    flat = fields.reshape(len(fields), -1)
    scaled = flat * np.repeat(np.sqrt(weights), 3)
    variance, mixes = np.linalg.eigh(root @ (scaled @ scaled.T) @ root.T)
    order = np.argsort(variance)[::-1]
    directions = (mixes[:, order[:count]].T @ root @ flat).reshape(count, *fields.shape[1:])
    sign = np.where((directions**3).sum(axis=(1, 2)) < 0, -1.0, 1.0)
    return directions * sign[:, None, None], np.maximum(variance[order], 0)


def purely_symmetric(directions: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Directions [K, N, 3] made exactly even or odd under mirroring, whichever each nearly is."""
    twins = mirrored(directions, mirror)
    even = np.einsum("knc,knc->k", directions, twins) >= 0
    return (directions + np.where(even, 1.0, -1.0)[:, None, None] * twins) / 2


def coefficients_of(fields: np.ndarray, directions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[K, D]: the weighted least-squares coefficients of fields [K, N, 3] in directions [D, N, 3]."""
    root = np.repeat(np.sqrt(weights), 3)
    basis = directions.reshape(len(directions), -1) * root
    return np.linalg.solve(basis @ basis.T, basis @ (fields.reshape(len(fields), -1) * root).T).T


def explained(
    fields: np.ndarray, person_weights: np.ndarray, directions: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Share of variance explained and root mean square residual (unit of the fields) of faces not used.

    Args:
      fields: [K, N, 3].
      person_weights: [P, K], of the faces.
      directions: [D, N, 3].
      weights: [N], of the vertices.
    """
    centred = person_weights - person_weights.mean(axis=0)
    rest = fields - np.tensordot(coefficients_of(fields, directions, weights), directions, axes=1)
    total, left = (_weighted_variance(f, centred, weights) for f in (fields, rest))
    return 1 - left / total, float(np.sqrt(left / weights.sum()))


def _weighted_variance(fields: np.ndarray, centred: np.ndarray, weights: np.ndarray) -> float:
    flat = fields.reshape(len(fields), -1) * np.repeat(np.sqrt(weights), 3)
    return float(np.einsum("ij,ij->", centred.T @ centred / len(centred), flat @ flat.T))
