"""Catmull-Clark subdivision of quad meshes as a sparse matrix, with UV and mirror pairs.

A refined mesh numbers its vertices so: the vertices of the coarse mesh keep their index, then one vertex for
each edge (in sorted order of its two ends), then one for each face. A refined vertex is a fixed weighted mean of
coarse ones, so any field over the vertices (a mean shape, a direction, a weight) is refined by one product.
Source: Catmull and Clark, "Recursively generated B-spline surfaces on arbitrary topological meshes", 1978.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse


class Refinement(NamedTuple):
    """One step of subdivision.

    Attributes:
      matrix: [N', N] sparse, rows sum to 1. faces: [4F, 4] int32 of the refined mesh, the same orientation.
      edges: [E, 2] int64, the coarse ends of the vertices N to N + E.
    """

    matrix: scipy.sparse.csr_matrix
    faces: np.ndarray
    edges: np.ndarray


def edges_of(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of faces [F, 4]: their ends [E, 2], smaller index first, sorted; and the edge [F, 4] after each corner."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2).astype(np.int64), axis=1)
    edges, inverse = np.unique(ends, axis=0, return_inverse=True)
    return edges, inverse.reshape(faces.shape)


def catmull_clark(faces: np.ndarray, num_vertices: int) -> Refinement:
    """Refine a manifold quad mesh once; its boundary becomes a cubic B-spline.

    Args:
      faces: [F, 4] vertex indices.
      num_vertices: N of the coarse mesh.

    Returns:
      A Refinement with N + E + F vertices.

    Raises:
      ValueError: an edge has more than two faces.
    """
    faces = np.asarray(faces)
    edges, edge_of_corner = edges_of(faces)
    num_edges, num_faces = len(edges), len(faces)
    uses = np.bincount(edge_of_corner.ravel(), minlength=num_edges)
    if uses.max(initial=0) > 2:
        raise ValueError(f"Expected `faces` of a manifold mesh, got an edge with {uses.max()} faces.")
    rows = np.repeat(np.arange(num_faces), 4)
    face_points = _matrix(np.full(faces.size, 0.25), rows, faces.ravel(), (num_faces, num_vertices))
    midpoints = _matrix(
        np.full(2 * num_edges, 0.5), np.repeat(np.arange(num_edges), 2), edges.ravel(), (num_edges, num_vertices)
    )
    edge_faces = _matrix(np.full(faces.size, 0.5), edge_of_corner.ravel(), rows, (num_edges, num_faces))
    inner = scipy.sparse.diags((uses == 2).astype(float))
    edge_points = midpoints + inner @ (0.5 * (edge_faces @ face_points) - 0.5 * midpoints)
    matrix = scipy.sparse.vstack([_vertex_points(faces, edges, uses, face_points, midpoints), edge_points, face_points])
    edge_vertex, face_vertex = num_vertices + edge_of_corner, num_vertices + num_edges + np.arange(num_faces)
    refined = np.stack(
        [faces, edge_vertex, np.broadcast_to(face_vertex[:, None], faces.shape), np.roll(edge_vertex, 1, axis=1)],
        axis=-1,
    )
    return Refinement(matrix.tocsr(), refined.reshape(-1, 4).astype(np.int32), edges)


def _matrix(values, rows, columns, shape) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=shape)


def _vertex_points(faces, edges, uses, face_points, midpoints) -> scipy.sparse.csr_matrix:
    """(F + 2 R + (n - 3) P) / n inside, (a + 6 P + b) / 8 on the boundary, P for vertices without faces."""
    num_vertices = face_points.shape[1]
    valence = np.bincount(faces.ravel(), minlength=num_vertices)
    on_boundary = np.zeros(num_vertices, bool)
    on_boundary[edges[uses == 1]] = True
    inside = (valence > 0) & ~on_boundary
    scale = np.where(inside, 1.0 / np.maximum(valence, 1), 0.0)
    face_mean = _matrix(scale[faces.ravel()], faces.ravel(), np.repeat(np.arange(len(faces)), 4), face_points.T.shape)
    edge_mean = _matrix(
        scale[edges.ravel()], edges.ravel(), np.repeat(np.arange(len(edges)), 2), (num_vertices, len(edges))
    )
    per_valence = scipy.sparse.diags(scale)
    own = scipy.sparse.diags(np.where(inside, 1 - 3 * scale, np.where(on_boundary, 0.5, 1.0)))
    # The mean of two boundary midpoints is (a + 2 P + b) / 4; half of it and half of P is (a + 6 P + b) / 8.
    rim = edges[uses == 1]
    rim_mean = _matrix(
        np.full(rim.size, 0.25), rim.ravel(), np.repeat(np.flatnonzero(uses == 1), 2), (num_vertices, len(edges))
    )
    return (
        per_valence @ (face_mean @ face_points) + 2 * per_valence @ (edge_mean @ midpoints) + own + rim_mean @ midpoints
    )


def refine_corners(corners: np.ndarray) -> np.ndarray:
    """Values at the corners of quads [F, 4, C] -> those of the refined quads [4F, 4, C], bilinear."""
    after = (corners + np.roll(corners, -1, axis=1)) / 2
    middle = np.broadcast_to(corners.mean(axis=1, keepdims=True), corners.shape)
    return np.stack([corners, after, middle, np.roll(after, 1, axis=1)], axis=2).reshape(-1, 4, corners.shape[-1])


def refine_mirror(mirror: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Mirror pairs [N] of a coarse symmetric mesh -> pairs [N + E + F] of the refined one.

    Raises:
      ValueError: an edge or a face has no mirror image.
    """
    edges, _ = edges_of(faces)
    num_vertices, num_edges = len(mirror), len(edges)
    edge_pairs = _find_rows(edges, np.sort(mirror[edges], axis=1))
    face_pairs = _find_rows(np.sort(faces, axis=1), np.sort(mirror[faces], axis=1))
    return np.concatenate([mirror, num_vertices + edge_pairs, num_vertices + num_edges + face_pairs])


def _find_rows(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each row of `wanted` the index of the equal row of `table`."""
    order, wanted_order = np.lexsort(table.T), np.lexsort(wanted.T)
    if not np.array_equal(table[order], wanted[wanted_order]):
        raise ValueError("Expected a mesh whose mirror image is itself, got edges or faces without a mirror image.")
    found = np.empty(len(wanted), np.int64)
    found[wanted_order] = order
    return found


def triangulate(quads: np.ndarray) -> np.ndarray:
    """Quads [F, 4, ...] -> triangles [2F, 3, ...]: corners 0 1 2 and 0 2 3 of each."""
    return np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], axis=1).reshape(-1, 3, *quads.shape[2:])
