"""Rigid iterative closest points (ICP): how far a reconstruction is from a scan it has no part in.

Points are compared without correspondences: each point of the source with the nearest of the target.
First point-to-plane steps on a sample, which converge from far; then point-to-point steps to the
least-squares fit the paper's protocol means. Both are robust: a pair counts the less the farther apart
it is, so that noise, outliers and parts only one of the two has do not pull. No scale is fitted.
NumPy in float64; nearest neighbours by SciPy's k-d tree.
"""

import dataclasses

import numpy as np
import scipy.spatial

SAMPLE = 4000
MAX_STEPS = 60
TOLERANCE = 3e-5  # of the target's size: mean motion of the points in one step
REACH = 3.0  # a pair this many typical distances apart counts a quarter


@dataclasses.dataclass(frozen=True)
class RigidMotion:
    """x -> rotation @ x + translation.

    Attributes:
      rotation: [3, 3]. translation: [3].
      steps: how many were taken; converged: whether the last one moved less than the tolerance.
    """

    rotation: np.ndarray
    translation: np.ndarray
    steps: int = 0
    converged: bool = True

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """points [N, 3] -> [N, 3], moved."""
        return points @ self.rotation.T + self.translation


class Target:
    """A cloud to be aligned to, with what every alignment needs of it.

    Args:
      points: [M, 3], finite; at least 3.
      normals: [M, 3] unit normals of the surface, any sign; estimated from neighbours if None.
    """

    def __init__(self, points: np.ndarray, normals: np.ndarray | None = None):
        self.points = _checked("target", points)
        self.tree = scipy.spatial.cKDTree(self.points, leafsize=32, balanced_tree=False)
        self.size = float(np.linalg.norm(np.ptp(self.points, axis=0)))
        self.normals = estimate_normals(self.points, self.tree) if normals is None else normals

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances [N] and indices [N] of the nearest target points of points [N, 3]."""
        return self.tree.query(points)


def _checked(name: str, points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 3:
        raise ValueError(f"Expected `{name}` of shape [N, 3] with at least 3 points, got {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError(f"`{name}` must be finite.")
    return points


def estimate_normals(points: np.ndarray, tree: scipy.spatial.cKDTree, neighbours: int = 12) -> np.ndarray:
    """[M, 3] unit normals: the thinnest direction of each point's neighbourhood."""
    _, index = tree.query(points, k=min(neighbours, len(points)))
    around = points[index] - points[index].mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("mki,mkj->mij", around, around))[1][:, :, 0]


def fit_rigid(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3] that bring source to target, both [N, 3], in weighted least
    squares (Kabsch); weights [N]."""
    weights = weights / weights.sum()
    centre_source, centre_target = weights @ source, weights @ target
    covariance = (target - centre_target).T @ (weights[:, None] * (source - centre_source))
    left, _, right = np.linalg.svd(covariance)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ flip @ right
    return rotation, centre_target - rotation @ centre_source


def _step_to_planes(source, target, normals, weights):
    """The small motion that brings source points onto the planes at their targets."""
    centre = source.mean(axis=0)
    centred = source - centre
    unknowns = np.concatenate([np.cross(centred, normals), normals], axis=1)
    weighted = unknowns * weights[:, None]
    gap = np.einsum("ni,ni->n", target - source, normals)
    damping = 1e-9 * np.trace(weighted.T @ unknowns) * np.eye(6)
    motion = np.linalg.solve(weighted.T @ unknowns + damping, weighted.T @ gap)
    rotation = scipy.spatial.transform.Rotation.from_rotvec(motion[:3]).as_matrix()
    return rotation, centre + motion[3:] - rotation @ centre


def robust_weights(distance: np.ndarray) -> np.ndarray:
    """[N]: how much pairs at these distances [N] count, 1 or less; see the module."""
    typical = 1.4826 * np.median(distance) + 1e-12 * (1.0 + distance.max())
    return 1.0 / (1.0 + np.square(distance / (REACH * typical))) ** 2


def align(source: np.ndarray, target: Target, *, sample: int = SAMPLE, seed: int = 0) -> RigidMotion:
    """The rigid motion that brings the source onto the target.

    A quarter of the sample finds the place, to planes and then to points; all of it the exact one.

    Args:
      source: [N, 3], finite. target: see `Target`; same unit, roughly the same place and pose (within
        about 30 degrees).
      sample: how many of the source's points decide. seed: of the choice.
    """
    source = _checked("source", source)
    if len(source) > sample:
        source = source[np.random.default_rng(seed).choice(len(source), sample, replace=False)]
    motion = RigidMotion(np.eye(3), np.zeros(3))
    few = source[: max(3, len(source) // 4)]
    for points, to_planes, tolerance in (
        (few, True, TOLERANCE), (few, False, TOLERANCE), (source, False, TOLERANCE)
    ):  # fmt: skip
        motion = _iterate(points, target, motion, to_planes, tolerance)
    return motion


def _iterate(
    source: np.ndarray, target: Target, motion: RigidMotion, to_planes: bool, tolerance: float
) -> RigidMotion:
    """Steps of one kind from `motion` on, until one moves the points less than `tolerance` of the target."""
    rotation, translation = motion.rotation, motion.translation
    for count in range(1, MAX_STEPS + 1):
        moved = source @ rotation.T + translation
        distance, index = target.nearest(moved)
        if to_planes:
            normals = target.normals[index]
            weights = robust_weights(np.abs(np.einsum("ni,ni->n", target.points[index] - moved, normals)))
            weights = weights * robust_weights(distance)
            step = _step_to_planes(moved, target.points[index], normals, weights)
        else:
            step = fit_rigid(moved, target.points[index], robust_weights(distance))
        rotation, translation = step[0] @ rotation, step[0] @ translation + step[1]
        moved_by = np.linalg.norm(source @ rotation.T + translation - moved, axis=1).mean()
        converged = bool(moved_by < tolerance * target.size)
        if converged:
            break
    return RigidMotion(rotation, translation, motion.steps + count, converged)


def reconstruction_error(
    source: np.ndarray, target: Target, interocular: float, *, sample: int = SAMPLE
) -> float:
    """Mean distance of all source points [N, 3] to their nearest target points after `align`, in per cent
    of the outer interocular distance (Section IV-C; protocol of PRNet, its reference [35])."""
    moved = align(source, target, sample=sample)(np.asarray(source, np.float64))
    return 100.0 * float(target.nearest(moved)[0].mean()) / interocular
