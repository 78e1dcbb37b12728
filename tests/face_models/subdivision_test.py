"""Catmull-Clark subdivision against worked examples."""

import numpy as np
import pytest

from twodal_jax.face_models import subdivision

CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
CUBE_FACES = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def grid(columns, rows):
    """A flat grid of quads: vertices [N, 3], faces [F, 4]."""
    x, y = np.meshgrid(np.arange(columns + 1.0) - columns / 2, np.arange(rows + 1.0))
    index = np.arange(x.size).reshape(x.shape)
    faces = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    return np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1), faces


def test_a_cube_becomes_the_known_solid():
    refined = subdivision.catmull_clark(CUBE_FACES, 8)
    points = refined.matrix @ CUBE
    assert len(points) == 8 + 12 + 6 and len(refined.faces) == 24
    np.testing.assert_allclose(points[:8], CUBE * 5 / 9, atol=1e-12)
    np.testing.assert_allclose(np.sort(np.abs(points[8:20]), axis=1), [[0, 0.75, 0.75]] * 12, atol=1e-12)
    np.testing.assert_allclose(np.sort(np.abs(points[20:]), axis=1), [[0, 0, 1]] * 6, atol=1e-12)


def test_a_closed_mesh_stays_closed_and_keeps_its_orientation():
    refined = subdivision.catmull_clark(CUBE_FACES, 8)
    points, triangles = refined.matrix @ CUBE, subdivision.triangulate(refined.faces)
    ends = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    directed = {tuple(edge) for edge in ends.tolist()}
    assert len(directed) == len(ends) and {edge[::-1] for edge in directed} == directed
    before, after = (
        np.einsum("ti,ti->", p[t][:, 0], np.cross(p[t][:, 1], p[t][:, 2]))
        for p, t in ((CUBE, subdivision.triangulate(CUBE_FACES)), (points, triangles))
    )
    assert before * after > 0


def test_the_boundary_is_a_cubic_spline_of_its_own():
    vertices, faces = grid(4, 3)
    refined = subdivision.catmull_clark(faces, len(vertices))
    vertices[6:9, 2] = 5.0  # inner vertices do not move the boundary
    points = refined.matrix @ vertices
    assert np.abs(points[[0, 1, 2, 3, 4], 2]).max() == 0
    np.testing.assert_allclose(points[2], vertices[1] / 8 + vertices[2] * 6 / 8 + vertices[3] / 8, atol=1e-12)


def test_weights_of_every_vertex_sum_to_one():
    vertices, faces = grid(4, 3)
    matrix = subdivision.catmull_clark(faces, len(vertices) + 1).matrix  # one vertex has no faces
    np.testing.assert_allclose(np.asarray(matrix.sum(axis=1)), 1, atol=1e-12)


def test_mirror_pairs_of_the_refined_mesh_are_mirror_images():
    vertices, faces = grid(4, 3)
    mirror = np.array([np.flatnonzero((vertices == vertex * [-1, 1, 1]).all(axis=1))[0] for vertex in vertices])
    points = subdivision.catmull_clark(faces, len(vertices)).matrix @ vertices
    np.testing.assert_allclose(points[subdivision.refine_mirror(mirror, faces)] * [-1, 1, 1], points, atol=1e-12)
    with pytest.raises(ValueError, match="without a mirror image"):
        subdivision.refine_mirror(mirror, faces[1:])


def test_corner_values_are_those_of_the_refined_corners():
    vertices, faces = grid(4, 3)
    corners = subdivision.refine_corners(vertices[faces])
    index = subdivision.catmull_clark(faces, len(vertices)).faces
    assert corners.shape == (48, 4, 3)
    # Equal vertices have equal values, and the area stays that of the grid.
    for vertex in range(index.max() + 1):
        assert np.ptp(corners[index == vertex], axis=0).max() == 0
    sides = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    np.testing.assert_allclose(np.cross(*sides)[:, 2].sum(), 12)


def test_an_edge_of_three_faces_is_refused():
    with pytest.raises(ValueError, match="manifold"):
        subdivision.catmull_clark(np.array([[0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 6, 7]]), 8)
