"""UV coordinates: the position of each vertex of a face on a square texture.

UV coordinates are [N, 2] from 0 to 1: u to the RIGHT, v UP, (0, 0) the lower left corner of the picture, as in OBJ. (In
glTF v points down: its v is 1 - v.) Texel (row i, column j) of a texture of S x S texels has its centre at
u = (j + 0.5) / S, v = 1 - (i + 0.5) / S.

A closed head cannot be unwrapped without a seam: some triangles reach from one edge of the square to the other.
`split_seam` repeats the vertices of these triangles, as formats with one UV per vertex require.
"""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg

from twodal_jax.io import mat, npy

# Share of the square that stays free around the chart, so that bilinear filters do not cross the edge of the texture.
MARGIN = 0.008
_MAX_ROUNDS = 60


class UvMap(NamedTuple):
    """A mesh in UV space.

    Attributes:
      uv: float32 [M, 2]; the first N belong to the vertices of the mesh, the others repeat vertices at the seam.
      triangles: int32 [T, 3], indices of uv, in the order of the mesh's triangles.
      vertex: int32 [M], vertex of the mesh for each UV; `vertices[vertex]` with `triangles` is a mesh with one UV per
        vertex.
    """

    uv: np.ndarray
    triangles: np.ndarray
    vertex: np.ndarray


def split_seam(uv: np.ndarray, triangles: np.ndarray) -> UvMap:
    """Repeats the vertices of triangles that cross the seam, at one edge of the texture.

    Args:
      uv: [N, 2].
      triangles: [T, 3].

    Returns:
      A map in which no triangle is wider than half the texture; M = N without a seam.

    Raises:
      ValueError: arrays of other shapes.
    """
    uv, triangles = np.asarray(uv, np.float32), np.asarray(triangles, np.int32)
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"uv: expected [N, 2], got {uv.shape}")
    vertex = np.arange(len(uv), dtype=np.int32)
    u = uv[triangles, 0]
    crossing = np.flatnonzero(np.ptp(u, axis=1) > 0.5)
    if not len(crossing):
        return UvMap(uv, triangles, vertex)
    high = u[crossing] > 0.5
    # The vertices on one side of the seam are repeated at the opposite edge of the texture: the one with more room.
    room_left = np.where(high, np.inf, u[crossing]).min(axis=1).min()
    room_right = 1 - np.where(high, u[crossing], -np.inf).max(axis=1).max()
    moved, edge = (high, 0.0) if room_left >= room_right else (~high, 1.0)
    triangles = triangles.copy()
    corners = triangles[crossing]
    repeated, place = np.unique(corners[moved], return_inverse=True)
    corners[moved] = len(uv) + place.reshape(-1)
    triangles[crossing] = corners
    at_edge = np.stack([np.full(len(repeated), edge, np.float32), uv[repeated, 1]], axis=1)
    vertex = np.concatenate([vertex, repeated]).astype(np.int32)
    return UvMap(np.concatenate([uv, at_edge]), triangles, vertex)


def of_corners(corner_uv: np.ndarray, triangles: np.ndarray) -> UvMap:
    """The map of UV coordinates that are given at the corners of triangles, which differ along seams.

    Args:
      corner_uv: [T, 3, 2].
      triangles: [T, 3]; each vertex belongs to a triangle.
    """
    corners = np.column_stack([np.ravel(triangles), np.reshape(corner_uv, (-1, 2))])
    found, place = np.unique(corners, axis=0, return_inverse=True)
    vertex = found[:, 0].astype(np.int32)
    repeats = np.concatenate([[False], vertex[1:] == vertex[:-1]])
    order = np.concatenate([np.flatnonzero(~repeats), np.flatnonzero(repeats)])
    where = np.empty(len(order), np.int32)
    where[order] = np.arange(len(order), dtype=np.int32)
    return UvMap(found[order, 1:].astype(np.float32), where[place.reshape(-1, 3)], vertex[order])


def as_map(uv: np.ndarray | UvMap, triangles: np.ndarray) -> UvMap:
    """`uv` itself if it is a map, else `split_seam` of coordinates [N, 2]."""
    return uv if isinstance(uv, UvMap) else split_seam(uv, triangles)


def cylinder_uv(mean: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unwraps a face on the cylinder around the vertical axis between its ears; the seam is behind the head.

    Patches that the cylinder folds (ears, nostrils, inside of the lips) are relaxed with mean value weights between
    their surroundings, so that each part of the surface has its own texels.

    Args:
      mean: [3, N], the mean shape, model frame (x right, y up, z to the viewer).
      triangles: [T, 3], counter-clockwise seen from outside.

    Returns:
      float32 [N, 2], see module; the middle of the face is at u = 0.5.

    Raises:
      ValueError: mean is not [3, N].

    Source of the weights: Floater, Mean value coordinates, CAGD 2003.
    """
    mean = np.asarray(mean, np.float64)
    if mean.ndim != 2 or len(mean) != 3:
        raise ValueError(f"mean: expected the mean shape [3, N], got {mean.shape}")
    x, y, z = mean
    x = x - 0.5 * (x.min() + x.max())
    depth = z - np.median(z[np.abs(x) > 0.9 * np.abs(x).max()])
    angle = np.arctan2(x, depth)
    flat = np.stack([0.5 + angle / (2 * np.pi), y], axis=1)
    whole = split_seam(flat, triangles)
    # In units of length, so that relaxed patches keep the proportions of their surroundings.
    size = np.array([2 * np.pi * np.median(np.hypot(x, depth)), 1.0])
    flat = np.stack([whole.uv[:, 0].astype(np.float64), y[whole.vertex]], axis=1) * size
    flat = _unfold(flat, mean.T[whole.vertex], whole.triangles)[: len(x)]
    return _fit_square(flat, keep_width=len(whole.vertex) > len(x), width=size[0])


def _fit_square(flat: np.ndarray, keep_width: bool, width: float) -> np.ndarray:
    """Stretches each axis to the square without its margin; a closed head keeps the full width."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    uv = MARGIN + (1 - 2 * MARGIN) * (flat - low) / (high - low)
    if keep_width:
        uv[:, 0] = flat[:, 0] / width
    return np.clip(uv, 0, 1).astype(np.float32)


def _signed_areas(flat: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (flat[triangles[:, corner]] for corner in range(3))
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def _unfold(flat: np.ndarray, points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Relaxes folded patches: flat [M, 2] of points [M, 3] -> [M, 2] without inverted triangles where possible.

    A map whose free vertices are weighted means of their neighbours has no folds inside a convex border (Tutte). A
    patch that still has folds is grown. The outer border of the mesh stays fixed.
    """
    weights = _mean_value_weights(points, triangles)
    laplacian = (scipy.sparse.diags(np.asarray(weights.sum(axis=1)).ravel()) - weights).tocsr()
    neighbours = (weights + weights.T).astype(bool)
    border = _outer_border(triangles, len(points))
    free, relaxed = np.zeros(len(points), bool), flat
    for round_number in range(_MAX_ROUNDS):
        folded = triangles[_signed_areas(relaxed, triangles) <= 0]
        patch = np.zeros(len(points), bool)
        patch[folded] = True
        for _ in range(3 if round_number == 0 else 2):
            patch |= neighbours @ patch
        patch &= ~border
        if not len(folded) or not (patch & ~free).any():
            break
        free |= patch
        rows = laplacian[free]
        relaxed = flat.copy()
        relaxed[free] = scipy.sparse.linalg.splu(rows[:, free].tocsc()).solve(-(rows[:, ~free] @ flat[~free]))
    return relaxed


def _mean_value_weights(points: np.ndarray, triangles: np.ndarray) -> scipy.sparse.csr_matrix:
    rows, columns, values = [], [], []
    for corner in range(3):
        i, j, k = (triangles[:, (corner + step) % 3] for step in range(3))
        to_j, to_k = points[j] - points[i], points[k] - points[i]
        length_j, length_k = np.linalg.norm(to_j, axis=1), np.linalg.norm(to_k, axis=1)
        product = np.maximum(length_j * length_k, 1e-12)
        cosine = np.clip(np.einsum("ti,ti->t", to_j, to_k) / product, -1, 1)
        tangent = np.sqrt((1 - cosine) / (1 + cosine + 1e-9))  # of half the angle
        rows += [i, i]
        columns += [j, k]
        values += [tangent / np.maximum(length_j, 1e-9), tangent / np.maximum(length_k, 1e-9)]
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return scipy.sparse.csr_matrix(entries, shape=(len(points), len(points)))


def _outer_border(triangles: np.ndarray, count: int) -> np.ndarray:
    """Vertices of the longest border line (edges with one triangle) and of no triangle, bool [count]."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges, uses = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)
    edges = edges[uses == 1]
    outer = np.ones(count, bool)
    outer[triangles] = False
    if len(edges):
        graph = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
        line = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][edges]
        outer[edges[line == np.bincount(line[:, 0]).argmax()]] = True
    return outer


def read_uv(path: os.PathLike | str, num_vertices: int, indices: np.ndarray | None = None) -> np.ndarray:
    """Reads third-party UV coordinates of a morphable model.

    Args:
      path: .npy with [N, 2], or .mat with `UV` (such as BFM_UV.mat of 3DDFA_V2); v up, 0 to 1.
      num_vertices: N of the morphable model.
      indices: [N], rows of the file for the model's vertices, for a model with fewer vertices (indices.npy of
        3DDFA_V2's neckless model); or None.

    Returns:
      float32 [N, 2].

    Raises:
      ValueError: names the file, what was expected and what it holds.
    """
    path = pathlib.Path(path)
    uv = _read_numbers(path)
    uv = uv.T if uv.ndim == 2 and uv.shape[0] == 2 != uv.shape[1] else uv
    if uv.ndim != 2 or uv.shape[1] != 2 or uv.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {uv.dtype} {list(uv.shape)}; expected UV coordinates [N, 2]")
    if indices is not None:
        indices = np.ravel(indices).astype(np.int64)
        if np.min(indices) < 0 or np.max(indices) >= len(uv):
            raise ValueError(f"{path}: {len(uv)} rows, but the indices reach to {np.max(indices)}")
        uv = uv[indices]
    if len(uv) != num_vertices:
        raise ValueError(
            f"{path}: UV coordinates of {len(uv):,} vertices, the morphable model has {num_vertices:,};"
            " give a file made for this model, or the indices of its vertices in the larger one"
        )
    if not (np.isfinite(uv).all() and uv.min() >= -1e-3 and uv.max() <= 1 + 1e-3):
        raise ValueError(f"{path}: values from {uv.min():.4g} to {uv.max():.4g}; expected 0 to 1 (shares, not texels)")
    return np.clip(uv, 0, 1).astype(np.float32)


def _read_numbers(path: pathlib.Path) -> np.ndarray:
    if path.suffix not in (".npy", ".mat"):
        raise ValueError(f"{path}: expected a .npy file with [N, 2] or a .mat file with `UV`")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".npy":
        return npy.read_npy(path)
    content = mat.read(path, ("UV",))
    if "UV" not in content:
        names = ", ".join(mat.variable_names(path)[:20])
        raise ValueError(f"{path}: expected `UV` in it; it holds {names or 'nothing'}")
    return content["UV"]
