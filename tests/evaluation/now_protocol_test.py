"""The NoW protocol on made scans whose distances are known, and exact distances from a surface."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from twodal_jax.evaluation import now_protocol
from twodal_jax.evaluation.surface_distance import Surface
from twodal_jax.face_models import cc0_head
from twodal_jax.rendering import shading


@pytest.fixture(scope="module")
def head():
    """(vertices [N, 3] in millimetres, triangles, seven landmarks) of the built-in head."""
    model = cc0_head.load().model
    vertices = 1000 * np.asarray(model.mean, np.float64).T
    return (
        vertices,
        np.asarray(model.triangles),
        vertices[np.asarray(model.landmark_indices)[list(now_protocol.LANDMARKS)]],
    )


def points_on(vertices, triangles, count, seed=0):
    rng = np.random.default_rng(seed)
    corners = vertices[triangles[rng.integers(len(triangles), size=count)]]
    return np.einsum("pk,pki->pi", rng.dirichlet([1, 1, 1], count), corners)


def test_distances_from_a_surface_equal_those_of_trimesh(head):
    vertices, triangles, _ = head
    triangles = triangles[::7]
    points = points_on(vertices, triangles, 300) + np.random.default_rng(1).normal(scale=15, size=(300, 3))
    places, found = Surface(vertices, triangles).closest(points)
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    expected = np.array(
        [
            np.linalg.norm(
                trimesh.triangles.closest_point(mesh.triangles, np.repeat(p[None], len(triangles), 0)) - p, axis=1
            ).min()
            for p in points[:60]
        ]
    )
    np.testing.assert_allclose(np.linalg.norm(places - points, axis=1)[:60], expected, atol=1e-9)
    again, _ = Surface(vertices, triangles).closest(points, np.zeros(len(points), np.int64))
    np.testing.assert_allclose(
        np.linalg.norm(again - points, axis=1), np.linalg.norm(places - points, axis=1), atol=1e-12
    )


def test_a_scan_of_the_mesh_itself_has_no_error_wherever_both_lie(head):
    vertices, triangles, landmarks = head
    scan = points_on(vertices, triangles, 40_000)
    moved = 0.0123 * vertices @ Rotation.from_euler("xyz", [0.3, -0.7, 2.0]).as_matrix().T + [5, -3, 40]
    # Landmarks some millimetres off: the refinement removes their error.
    noise = np.random.default_rng(2).normal(scale=3, size=(7, 3))
    seven = 0.0123 * (landmarks + noise) @ Rotation.from_euler("xyz", [0.3, -0.7, 2.0]).as_matrix().T + [5, -3, 40]
    errors = now_protocol.scan_errors(scan, landmarks, moved, triangles, seven)
    assert len(errors) > 5000 and errors.max() < 1e-3


def test_a_skin_of_known_thickness_has_its_thickness_as_error():
    """Balls: moved and scaled in any way, a ball lies best when it is concentric and of the scan's size."""
    ball = trimesh.creation.icosphere(5, radius=80.0)
    vertices, triangles = np.asarray(ball.vertices), np.asarray(ball.faces)
    directions = np.random.default_rng(3).normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = np.where(np.arange(len(directions)) % 2, 81.0, 79.0)
    seven = 80 * directions[:7]
    centre, reach = now_protocol.face_ball(seven)
    errors = now_protocol.scan_errors(radius[:, None] * directions, seven, vertices, triangles, seven, metrical=True)
    assert abs(np.median(errors) - 1) < 0.02 and abs(errors.mean() - 1) < 0.02


def test_a_rigid_motion_of_either_changes_nothing_and_size_counts_only_if_metrical(head):
    vertices, triangles, landmarks = head
    normals = shading.vertex_normals(vertices, triangles)
    rng = np.random.default_rng(4)
    scan = vertices + normals * rng.normal(scale=1.5, size=(len(vertices), 1))
    reference = now_protocol.scan_errors(scan, landmarks, vertices, triangles, landmarks)
    turn, shift = Rotation.from_euler("xyz", [1.0, 0.4, -0.6]).as_matrix(), np.array([100.0, -20, 7])
    moved = now_protocol.scan_errors(scan, landmarks, vertices @ turn.T + shift, triangles, landmarks @ turn.T + shift)
    np.testing.assert_allclose(moved, reference, atol=1e-3)
    other = now_protocol.scan_errors(scan @ turn.T + shift, landmarks @ turn.T + shift, vertices, triangles, landmarks)
    np.testing.assert_allclose(other, reference, atol=1e-3)
    larger = now_protocol.scan_errors(scan, landmarks, 1.1 * vertices, triangles, 1.1 * landmarks)
    np.testing.assert_allclose(larger, reference, atol=1e-3)
    metrical = now_protocol.scan_errors(scan, landmarks, 1.1 * vertices, triangles, 1.1 * landmarks, metrical=True)
    assert metrical.mean() > 1.5 * reference.mean()


def test_a_scan_away_from_its_landmarks_is_an_error(head):
    vertices, triangles, landmarks = head
    with pytest.raises(ValueError, match="one frame"):
        now_protocol.scan_errors(vertices + 1e4, landmarks, vertices, triangles, landmarks)
