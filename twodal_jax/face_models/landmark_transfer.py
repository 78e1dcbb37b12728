"""The 68 landmarks of a face model whose file states none or few: those of the built-in head, moved onto its mesh."""

import numpy as np
import scipy.spatial

from twodal_jax.face_models import cc0_head
from twodal_jax.geometry.similarity import similarity

_STEPS, _KEPT = 40, 0.8  # of the alignment, and the share of pairs that it trusts


def complete(mean: np.ndarray, stated: dict[int, int]) -> np.ndarray:
    """Vertices [68] of the landmarks of a mean face [N, 3], in any unit: those stated, and the others by alignment.

    The built-in head is placed by a similarity on the stated landmarks, or, with fewer than four, by the width of the
    head and the tip of the nose, refined by iterative closest points; then the nearest vertices are taken. For BFM 2009
    they are off by 3 mm (jaw 5 mm) with four stated landmarks, by 6 mm (jaw 12 mm) with none: look at the result, or
    give a file of landmarks.
    """
    model = cc0_head.load().model
    own = np.asarray(model.landmark_mean, np.float64).T
    mean = np.asarray(mean, np.float64)
    tree = scipy.spatial.cKDTree(mean)
    if len(stated) >= 4:
        numbers = sorted(stated)
        placed = similarity(own[numbers], mean[[stated[number] for number in numbers]])(own)
    else:
        placed = _refined(_roughly_placed(own, np.asarray(model.mean, np.float64).T, mean), tree, mean)
    vertices = tree.query(placed)[1]
    for number, vertex in stated.items():
        vertices[number] = vertex
    return vertices


def _roughly_placed(own: np.ndarray, head: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The landmarks, with the head as wide as the model and its nose at the model's foremost point near the middle."""
    middle = (mean[:, 0].min() + mean[:, 0].max()) / 2
    width = np.ptp(mean[:, 0])
    nose = max(np.flatnonzero(np.abs(mean[:, 0] - middle) < 0.1 * width), key=lambda vertex: mean[vertex, 2])
    scale = width / np.ptp(head[:, 0])
    return (own - own[30]) * scale + mean[nose]


def _refined(placed: np.ndarray, tree: scipy.spatial.cKDTree, mean: np.ndarray) -> np.ndarray:
    for _ in range(_STEPS):
        distance, nearest = tree.query(placed)
        good = distance <= np.quantile(distance, _KEPT)
        placed = similarity(placed[good], mean[nearest[good]])(placed)
    return placed
