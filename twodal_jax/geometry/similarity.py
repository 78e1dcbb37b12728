"""The similarity between two sets of corresponding points. NumPy, float64."""

import numpy as np


def similarity(source: np.ndarray, target: np.ndarray, *, scaled: bool = True) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation [3, 3] and translation [3] that move points [K, 3] onto others with the least squares.

    No reflection. scaled: False keeps the scale 1.
    Source: Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point Patterns, 1991.
    """
    centre, aim = source.mean(axis=0), target.mean(axis=0)
    u, sizes, vt = np.linalg.svd((target - aim).T @ (source - centre))
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = float((sizes * signs).sum() / max(((source - centre) ** 2).sum(), 1e-300)) if scaled else 1.0
    return scale, rotation, aim - scale * rotation @ centre
