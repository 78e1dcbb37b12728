"""Colours of vertices that the photo does not show, from the mirrored side of the face or from their surroundings.

Notation: a mesh has N vertices. Its mean shape [3, N] (model frame, x right) is symmetric about x = const as a surface,
but its vertices are not mirror images of each other. Therefore the mirror image of a vertex is a point on a triangle,
given by three corners and their weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.spatial

from twodal_jax.geometry import symmetry

SEEN, MIRRORED, FILLED = 0, 1, 2
_SMOOTHING_STEPS = 60


class MirrorPoints(NamedTuple):
    """Mirror image of each vertex as a point on the mesh.

    Attributes:
      corners: int32 [N, 3], vertices of the triangle that it lies on.
      weights: float32 [N, 3], barycentric, sum 1.
    """

    corners: np.ndarray
    weights: np.ndarray


def mirror_points(mean: np.ndarray, triangles: np.ndarray) -> MirrorPoints:
    """Mirror image of each vertex, on one of the triangles around the vertex nearest to it.

    Args:
      mean: [3, N], the mean shape, model frame.
      triangles: [T, 3].
    """
    mean = np.asarray(mean, np.float64)
    index = symmetry.paired_vertices(mean)
    targets = mean * symmetry.FLIP_X[:, None]
    targets[0] += (mean[0] + mean[0, index]).mean()
    around = _triangles_at(np.asarray(triangles), mean.shape[1])[index]
    best = np.full(len(index), np.inf)
    corners = np.repeat(index[:, None], 3, axis=1)
    weights = np.repeat(np.array([[1.0, 0.0, 0.0]]), len(index), axis=0)
    for triangle_of_vertex in around.T:
        candidate = np.asarray(triangles)[triangle_of_vertex]
        share = _weights_in_plane(targets.T, mean.T[candidate])
        distance = np.linalg.norm(np.einsum("nk,nkc->nc", share, mean.T[candidate]) - targets.T, axis=1)
        better = (triangle_of_vertex >= 0) & (distance < best)
        best[better], corners[better], weights[better] = distance[better], candidate[better], share[better]
    return MirrorPoints(corners.astype(np.int32), weights.astype(np.float32))


def _triangles_at(triangles: np.ndarray, num_vertices: int) -> np.ndarray:
    """Triangles of each vertex, int [N, K], padded with -1; K is the largest number of triangles of a vertex."""
    vertices = triangles.ravel()
    order = np.argsort(vertices, kind="stable")
    counts = np.bincount(vertices, minlength=num_vertices)
    first = np.cumsum(counts) - counts
    table = np.full((num_vertices, max(counts.max(initial=0), 1)), -1)
    table[vertices[order], np.arange(len(order)) - first[vertices[order]]] = order // 3
    return table


def _weights_in_plane(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric weights [N, 3] of points [N, 3] projected onto triangles [N, 3, 3], clipped to the triangle."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = points - corners[:, 0]
    aa, ab, bb, pa, pb = (np.einsum("ni,ni->n", *pair) for pair in ((a, a), (a, b), (b, b), (p, a), (p, b)))
    area = np.maximum(aa * bb - ab * ab, 1e-12 * np.maximum(aa * bb, 1e-30))
    second, third = (bb * pa - ab * pb) / area, (aa * pb - ab * pa) / area
    weights = np.clip(np.stack([1 - second - third, second, third], axis=1), 0, 1)
    return weights / weights.sum(axis=1, keepdims=True)


def mirrored(values: np.ndarray, mirror: MirrorPoints) -> np.ndarray:
    """Values [N, C] or [N] of the vertices -> values at the mirror image of each vertex."""
    return np.einsum("nk,nk...->n...", mirror.weights, np.asarray(values, np.float32)[mirror.corners])


def fill_by_symmetry(
    colours: np.ndarray, known: np.ndarray, mirror: MirrorPoints | None, points: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of all vertices from those that the photo shows.

    Args:
      colours: [N, 3].
      known: bool [N], where `colours` is valid.
      mirror: of `mirror_points`, or None for a mesh without symmetry.
      points: [N, 3], the vertices in any frame, to find the nearest coloured one.
      triangles: [T, 3].

    Returns:
      float32 [N, 3], unchanged where known, and source uint8 [N]: SEEN in the photo, MIRRORED, or FILLED by smooth
      continuation of the nearest of these. If no colour is known, all vertices are mid-grey and FILLED.
    """
    colours, known = np.array(colours, np.float32), np.asarray(known, bool)
    source = np.where(known, SEEN, FILLED).astype(np.uint8)
    if mirror is not None:
        from_mirror = ~known & (mirrored(known.astype(np.float32), mirror) > 0.999)
        blackened = np.where(known[:, None], colours, 0)
        colours[from_mirror] = mirrored(blackened, mirror)[from_mirror]
        source[from_mirror] = MIRRORED
    missing = source == FILLED
    if missing.all():
        return np.full(colours.shape, 0.5, np.float32), source
    if missing.any():
        nearest = scipy.spatial.cKDTree(points[~missing]).query(points[missing])[1]
        colours[missing] = colours[~missing][nearest]
        average = neighbour_mean(triangles, len(colours))[missing]
        for _ in range(_SMOOTHING_STEPS):
            colours[missing] = average @ colours
    return colours, source


def neighbour_mean(triangles: np.ndarray, num_vertices: int) -> scipy.sparse.csr_matrix:
    """Matrix, float32 [N, N], that averages a vertex (weight one half) with its neighbours (together one half)."""
    ends = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    ends = np.concatenate([ends, ends[:, ::-1]])
    entries = np.ones(len(ends), np.float32), ends.T
    links = scipy.sparse.coo_matrix(entries, shape=(num_vertices, num_vertices)).tocsr()
    share = 0.5 / np.maximum(np.asarray(links.sum(axis=1)).ravel(), 1)
    mean = scipy.sparse.diags(share.astype(np.float32)) @ links
    return (mean + scipy.sparse.diags(1 - np.asarray(mean.sum(axis=1)).ravel())).tocsr()
