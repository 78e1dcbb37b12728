"""Rigid iterative closest points (ICP): distance of a reconstruction from a scan without correspondences.

Each source point is paired with the nearest target point. Point-to-plane steps on few points come first, because they
converge from far. Point-to-point steps on more and more points follow; they give the least-squares fit of the paper's
protocol. All steps are robust: the weight of a pair decreases with its distance, so that noise, outliers and parts
missing in one cloud have little influence. No scale is fitted.

Plain point-to-point steps converge slowly along the surface, so they are accelerated (`_AndersonAcceleration`). A
nearest neighbour is searched again only if the point has moved so far that another target point may be nearer
(`_NearestCache`), which does not change the result. NumPy in float64; SciPy's k-d tree.
"""

import dataclasses

import numpy as np
import scipy.spatial

FIRST_SAMPLES = (1000, 4000)  # points of the first, coarse stages; the last has `SAMPLE`
SAMPLE = 16_000
FIRST_TOLERANCE, TOLERANCE = 5e-5, 1e-5  # motion of the points in a stage's last step, relative to the target's size
MAX_STEPS = 60  # of a stage
REACH = 3.0  # a pair this many typical distances apart has a quarter of the weight


@dataclasses.dataclass(frozen=True)
class RigidMotion:
    """The motion x -> rotation @ x + translation.

    Attributes:
      rotation: [3, 3].
      translation: [3].
      steps: number of steps in all stages.
      converged: whether the last step moved the points less than its tolerance.
    """

    rotation: np.ndarray
    translation: np.ndarray
    steps: int = 0
    converged: bool = True

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Moved points [N, 3] of points [N, 3]."""
        return points @ self.rotation.T + self.translation


class Target:
    """Target points with their k-d tree and normals.

    Args:
      points: [M, 3], finite, M >= 3.
      normals: [M, 3] unit normals of the surface, any sign; None: estimated from neighbours.
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
    """Unit normals [M, 3]: the direction of least variance in each point's neighbourhood."""
    _, index = tree.query(points, k=min(neighbours, len(points)))
    around = points[index] - points[index].mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("mki,mkj->mij", around, around))[1][:, :, 0]


def fit_rigid(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares rotation [3, 3] and translation [3] from source to target [N, 3] with weights [N] (Kabsch)."""
    weights = weights / weights.sum()
    centre_source, centre_target = weights @ source, weights @ target
    covariance = (target - centre_target).T @ (weights[:, None] * (source - centre_source))
    left, _, right = np.linalg.svd(covariance)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ flip @ right
    return rotation, centre_target - rotation @ centre_source


def _step_to_planes(source, target, normals, weights):
    """Rotation and translation, for small motions, from source points to the planes at their targets."""
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
    """Weights [N] in (0, 1] of pairs at distances [N]; see the module."""
    typical = 1.4826 * np.median(distance) + 1e-12 * (1.0 + distance.max())
    return 1.0 / (1.0 + np.square(distance / (REACH * typical))) ** 2


def robust_step(
    source: np.ndarray, target: Target, distance: np.ndarray, index: np.ndarray, to_planes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3] of one ICP step.

    Source points [N, 3] are fitted to the target points `index` [N] at `distance` [N], or to the planes there.
    """
    points, weights = target.points[index], robust_weights(distance)
    if not to_planes:
        return fit_rigid(source, points, weights)
    normals = target.normals[index]
    weights = weights * robust_weights(np.abs(np.einsum("ni,ni->n", points - source, normals)))
    return _step_to_planes(source, points, normals, weights)


class _NearestCache:
    """Nearest target points of slowly moving points.

    The nearest target point stays the nearest until the point has moved by half the difference of the distances to
    the nearest and the second nearest; only then it is searched again.
    """

    def __init__(self, target: Target, count: int):
        self._target = target
        self._searched = np.full((count, 3), np.inf)  # position of each point at its last search
        self._index = np.zeros(count, np.intp)
        self._reach = np.zeros(count)  # squared distance from there within which the index holds

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances [N] and indices [N] of the target points nearest to points [N, 3]."""
        stale = np.flatnonzero(_squared_length(points - self._searched) >= self._reach)
        if len(stale):
            distance, index = self._target.tree.query(points[stale], k=2)
            self._searched[stale], self._index[stale] = points[stale], index[:, 0]
            self._reach[stale] = np.square(distance[:, 1] - distance[:, 0]) / 4
        return np.sqrt(_squared_length(self._target.points[self._index] - points)), self._index


def _squared_length(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("ni,ni->n", vectors, vectors)


class _AndersonAcceleration:
    """Anderson acceleration of steps x -> g(x) to a fixed point: Pavlov et al., "AA-ICP" (2018).

    The next x is the combination of the last results whose motion g(x) - x would be smallest if g were linear. After a
    step that moves more than the one before, the history is cleared and the plain step is taken.
    """

    WINDOW = 6

    def __init__(self):
        self._ends: list[np.ndarray] = []
        self._motions: list[np.ndarray] = []

    def __call__(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The next x after a step from `start` to `end`, all of one shape [K]."""
        motion = end - start
        if self._motions and np.linalg.norm(motion) > np.linalg.norm(self._motions[-1]):
            self._ends, self._motions = [], []
        self._ends = [*self._ends, end][-self.WINDOW :]
        self._motions = [*self._motions, motion][-self.WINDOW :]
        if len(self._ends) == 1:
            return end
        ends, motions = (np.diff(history, axis=0).T for history in (self._ends, self._motions))
        return end - ends @ np.linalg.lstsq(motions, motion, rcond=1e-8)[0]


def align(source: np.ndarray, target: Target, *, sample: int = SAMPLE, seed: int = 0) -> RigidMotion:
    """Rigid motion that aligns the source with the target.

    Args:
      source: [N, 3], finite.
      target: of the same unit, with roughly the same position and pose (within about 30 degrees).
      sample: number of source points used.
      seed: of their choice.
    """
    source = _checked("source", source)
    order = np.random.default_rng(seed).permutation(len(source))
    last = min(sample, len(source))
    counts = [*(count for count in FIRST_SAMPLES if count < last), last]
    stages = [(counts[0], True), *((count, False) for count in counts)]
    motion = RigidMotion(np.eye(3), np.zeros(3))
    for stage, (count, to_planes) in enumerate(stages, start=1):
        points = source[np.sort(order[:count])]  # in the source's order, which keeps neighbours together
        motion = _iterate(points, target, motion, to_planes, TOLERANCE if stage == len(stages) else FIRST_TOLERANCE)
    return motion


def reconstruction_error(source: np.ndarray, target: Target, interocular: float, *, sample: int = SAMPLE) -> float:
    """Mean distance of all source points [N, 3] to their nearest target points after `align`.

    In per cent of the outer interocular distance (Section IV-C; protocol of PRNet, its reference [35]).
    """
    return error_after(align(source, target, sample=sample), source, target, interocular)


def error_after(motion: RigidMotion, source: np.ndarray, target: Target, interocular: float) -> float:
    """`reconstruction_error` of source points [N, 3] with a given motion instead of `align`."""
    moved = motion(np.asarray(source, np.float64))
    return 100.0 * float(target.nearest(moved)[0].mean()) / interocular


def _iterate(source: np.ndarray, target: Target, motion: RigidMotion, to_planes: bool, tolerance: float) -> RigidMotion:
    """Steps of one kind, starting from `motion`, until one moves the points less than `tolerance` * target size.

    For acceleration and tolerance a motion is a vector of six lengths that bounds the points' root mean square
    displacement: the rotation vector about their centre times their spread, and the centre's shift.
    """
    start = motion(source)
    nearest = _NearestCache(target, len(start))
    centre = start.mean(axis=0)
    spread = np.sqrt(_squared_length(start - centre).mean()) or 1.0
    accelerated, place = _AndersonAcceleration(), np.zeros(6)
    for count in range(1, MAX_STEPS + 1):
        rotation, translation = _from_lengths(place, centre, spread)
        moved = start @ rotation.T + translation
        distance, index = nearest(moved)
        step = robust_step(moved, target, distance, index, to_planes)
        end = _to_lengths(step[0] @ rotation, step[0] @ translation + step[1], centre, spread)
        converged = bool(np.linalg.norm(end - place) < tolerance * target.size)
        place = end if converged or to_planes else accelerated(place, end)
        if converged:
            break
    rotation, translation = _from_lengths(place, centre, spread)
    return RigidMotion(
        rotation @ motion.rotation, rotation @ motion.translation + translation, motion.steps + count, converged
    )


def _to_lengths(rotation, translation, centre, spread) -> np.ndarray:
    """A motion as six lengths; see `_iterate`."""
    turn = scipy.spatial.transform.Rotation.from_matrix(rotation).as_rotvec()
    return np.concatenate([turn * spread, rotation @ centre + translation - centre])


def _from_lengths(place, centre, spread) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `_to_lengths`."""
    rotation = scipy.spatial.transform.Rotation.from_rotvec(place[:3] / spread).as_matrix()
    return rotation, centre + place[3:] - rotation @ centre
