"""How well face models describe real faces and the faces of another model.

    TWODAL_DATA_DIR=... python -m benchmarks.face_model_fit [--faces=50] [--model=NAME_OR_PATH ...]

1. The 68 3D landmarks of the annotated faces of `aflw2000/` below 45 degrees of yaw, fitted by a similarity and the
   50 coefficients in turn: mean distance in % of the root of the area of the landmarks' 2D box. The labels were made
   with BFM. A ridge holds the coefficients: one standard deviation of each costs as much as `NOISE` of the face's
   size at one coordinate of a landmark. It is the same for all models.
2. Random faces of `bfm_3ddfa/`, fitted by the surface of the built-in head: mean distance in millimetres of the
   vertices in the face mask to the other surface.

A model's coefficients have the mean and standard deviation of its whitening.
"""

import argparse
import os
import pathlib

import numpy as np
import scipy.spatial

from twodal_jax.face_models import cc0_head, load
from twodal_jax.geometry.coefficients import NUM_POSE
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.geometry.similarity import similarity
from twodal_jax.rendering.shading import vertex_normals

NOISE = 0.0135  # with it BFM has the residual known of it, 0.85 %
MAX_YAW = 45.0
LANDMARK_STEPS, SURFACE_STEPS = 30, 12
SURFACE_VERTICES = 2500
MAX_DISTANCE = 0.02  # metres to the nearest point beyond which a vertex has no partner
MICROMETRES = 1e-6


def face_size(points: np.ndarray) -> np.ndarray:
    """Root of the area of the 2D box of landmarks [..., 68, 3]."""
    return np.sqrt(np.prod(np.ptp(points[..., :2], axis=-2), axis=-1))


def fit_landmarks(mean: np.ndarray, basis: np.ndarray, points: np.ndarray, steps: int = LANDMARK_STEPS):
    """Fit a model to landmarks.

    Args:
      mean: [L, 3].
      basis: [D, L, 3], each direction one standard deviation long.
      points: [P, L, 3], y up.

    Returns:
      fitted landmarks [P, L, 3] and coefficients [P, D] in standard deviations.
    """
    flat = basis.reshape(len(basis), -1)
    ridge = (NOISE * face_size(mean)) ** 2
    solve = np.linalg.inv(flat @ flat.T + ridge * np.eye(len(basis)))
    weights = np.zeros((len(points), len(basis)))
    for step in range(steps + 1):
        shape = mean + np.tensordot(weights, basis, axes=1)
        move = similarity(shape, points)
        if step < steps:
            weights = (move.inverse(points) - mean).reshape(len(points), -1) @ flat.T @ solve
    return move(shape), weights


def residual_percent(fitted: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[P, L]: distances in % of `face_size`."""
    return 100 * np.linalg.norm(fitted - points, axis=-1) / face_size(points)[:, None]


def landmark_directions(model: MorphableModel) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of the mean face [68, 3] and directions [50, 68, 3] of one standard deviation, float64."""
    basis = np.asarray(model.landmark_basis, np.float64).transpose(0, 2, 1)
    mean = np.asarray(model.landmark_mean, np.float64).T + np.tensordot(model.alpha_mean[NUM_POSE:], basis, axes=1)
    return mean, basis * model.alpha_std[NUM_POSE:, None, None]


def annotated_landmarks(folder: pathlib.Path) -> np.ndarray:
    """[P, 68, 3], y up: the annotated faces below `MAX_YAW`."""
    with np.load(folder / "aflw2000" / "annotations.npz", allow_pickle=False) as content:
        points, yaw = content["pts68"].astype(np.float64), content["yaw_deg"]
    return points.transpose(0, 2, 1)[np.abs(yaw) < MAX_YAW] * [1, -1, 1]


class Surface:
    """A triangle mesh that tells the nearest point of itself: of the triangles around the nearest vertex."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        self.vertices, self.triangles = vertices, triangles
        self.tree = scipy.spatial.cKDTree(vertices)
        self.normals = vertex_normals(vertices, triangles).astype(np.float64)
        order = np.argsort(triangles.ravel(), kind="stable")
        self.around = order // 3
        self.starts = np.searchsorted(triangles.ravel()[order], np.arange(len(vertices) + 1))
        ends = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        edges, uses = np.unique(ends, axis=0, return_counts=True)
        self.rim = np.zeros(len(vertices), bool)
        self.rim[edges[uses == 1]] = True

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest points [K, 3] of the surface, and the nearest vertices [K]."""
        vertex = self.tree.query(points)[1]
        best, distance = self.vertices[vertex].copy(), np.full(len(points), np.inf)
        degree = self.starts[vertex + 1] - self.starts[vertex]
        for i in range(degree.max()):
            have = np.flatnonzero(degree > i)
            corners = self.vertices[self.triangles[self.around[self.starts[vertex[have]] + i]]]
            near = nearest_in_triangles(points[have], corners)
            far = np.linalg.norm(points[have] - near, axis=1)
            better = far < distance[have]
            best[have[better]], distance[have[better]] = near[better], far[better]
        return best, vertex


def nearest_in_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Nearest points [K, 3] of triangles [K, 3, 3] to points [K, 3]."""
    origin, first, second = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(first, second)
    area = np.maximum(np.einsum("ki,ki->k", normal, normal), 1e-30)
    out = points - origin
    u = np.einsum("ki,ki->k", np.cross(out, second), normal) / area
    v = np.einsum("ki,ki->k", np.cross(first, out), normal) / area
    inside = (u >= 0) & (v >= 0) & (u + v <= 1)
    best = origin + u[:, None] * first + v[:, None] * second
    distance = np.where(inside, 0.0, np.inf)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, b] - corners[:, a]
        length = np.maximum(np.einsum("ki,ki->k", edge, edge), 1e-30)
        share = np.clip(np.einsum("ki,ki->k", points - corners[:, a], edge) / length, 0, 1)
        near = corners[:, a] + share[:, None] * edge
        far = np.linalg.norm(points - near, axis=1)
        best[far < distance], distance = near[far < distance], np.minimum(distance, far)
    return best


def fit_surface(head: cc0_head.Cc0Head, target: Surface, landmarks: np.ndarray) -> np.ndarray:
    """Distances in metres of the vertices of the face mask to a surface, after the head was fitted to it.

    The fit begins at the landmarks [68, 3], then follows the nearest points of the surface.
    """
    std = head.model.alpha_std[NUM_POSE:].astype(np.float64)
    face = np.flatnonzero(head.masks["face"] > 0.5)
    chosen = face[:: max(len(face) // SURFACE_VERTICES, 1)]
    mean, basis = (np.asarray(a, np.float64) for a in (head.model.mean.T, head.model.basis.transpose(0, 2, 1)))
    basis = basis * std[:, None, None]
    index = head.model.landmark_indices
    _, weights = fit_landmarks(mean[index], basis[:, index], landmarks[None])
    weights = weights[0]
    move = similarity((mean + np.tensordot(weights, basis, axes=1))[index], landmarks)
    some_mean, some_basis = mean[chosen], basis[:, chosen]
    # As many landmarks of information as there are landmarks, whatever the number of vertices.
    ridge = (NOISE * face_size(mean[index])) ** 2 * len(chosen) / len(index)
    for _ in range(SURFACE_STEPS):
        placed = move(some_mean + np.tensordot(weights, some_basis, axes=1))
        near, vertex = target.nearest(placed)
        paired = (np.linalg.norm(near - placed, axis=1) < MAX_DISTANCE) & ~target.rim[vertex]
        # Along the surface the pairs are unknown; the way across it counts.
        normals = target.normals[vertex[paired]] @ move.rotation
        wanted = move.inverse(near[paired]) - some_mean[paired]
        across = np.einsum("dkc,kc->dk", some_basis[:, paired], normals)
        normal_matrix = across @ across.T + ridge * np.eye(len(std))
        weights = np.linalg.solve(normal_matrix, across @ np.einsum("kc,kc->k", wanted, normals))
        shape = (some_mean + np.tensordot(weights, some_basis, axes=1))[paired]
        near, _ = target.nearest(move(shape))
        move = similarity(shape, near)
    placed = move(mean[face] + np.tensordot(weights, basis[:, face], axes=1))
    near, vertex = target.nearest(placed)
    distance = np.linalg.norm(near - placed, axis=1)
    return distance[(distance < MAX_DISTANCE) & ~target.rim[vertex]]


def random_bfm_distances(folder: pathlib.Path, count: int) -> np.ndarray:
    """Mean distance in millimetres [count] of the built-in head fitted to random faces of BFM."""
    bfm, head, rng = load.load_morphable_model(folder / "bfm_3ddfa"), cc0_head.load(), np.random.default_rng(0)
    means = []
    for _ in range(count):
        weights = bfm.alpha_mean[NUM_POSE:] + bfm.alpha_std[NUM_POSE:] * rng.normal(size=50)
        weights[:40] = (bfm.alpha_std[NUM_POSE:] * rng.normal(size=50))[:40]
        vertices = (np.asarray(bfm.mean, np.float64) + np.tensordot(weights, bfm.basis, axes=1)).T * MICROMETRES
        surface = Surface(vertices, np.asarray(bfm.triangles, np.int64))
        means.append(1000 * fit_surface(head, surface, vertices[bfm.landmark_indices]).mean())
    return np.array(means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=50, help="random faces of BFM; 0 for none")
    parser.add_argument("--model", nargs="*", default=["builtin", "BFM"], help="names or paths of models")
    options = parser.parse_args()
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    points = annotated_landmarks(folder)
    print(f"68 3D landmarks of {len(points)} annotated faces of AFLW2000-3D below {MAX_YAW:g} degrees of yaw:")
    for name in options.model:
        model = load.load_morphable_model(folder / "bfm_3ddfa" if name == "BFM" else name)
        fitted, weights = fit_landmarks(*landmark_directions(model), points)
        print(
            f"  {name}: residual {residual_percent(fitted, points).mean():.2f} %, coefficients"
            f" {np.sqrt(np.square(weights).mean()):.2f} standard deviations (root mean square)"
        )
    if options.faces:
        distances = random_bfm_distances(folder, options.faces)
        print(
            f"{options.faces} random faces of BFM, distance inside the face mask: mean {distances.mean():.2f} mm,"
            f" largest of a face {distances.max():.2f} mm"
        )


if __name__ == "__main__":
    main()
