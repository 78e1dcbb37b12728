"""Faces drawn over whole photos, and the visibility of landmarks."""

import numpy as np
import pytest
from helpers_mesh import ball, in_picture

from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry.heatmap import MIRROR_68
from twodal_jax.rendering import drawing, overlay, shading
from twodal_jax.rendering.landmarks import draw_face_landmarks, visible_landmarks

GREY = 90


@pytest.fixture(scope="module")
def head():
    model = load_morphable_model("builtin")
    return 1000 * np.asarray(model.mean).T, np.asarray(model.triangles), np.asarray(model.landmark_indices)


def posed(points, yaw, size=200.0, pitch=0.0):
    """Vertices [N, 3], y down, of the head in a picture whose side is 1.4 `size`."""
    y, p = np.radians([yaw, pitch])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    turned = points @ (tilt @ turn).T * [1, -1, 1]
    return (turned * size / 310 + [0.7 * size, 0.6 * size, 0]).astype(np.float32)


def hidden_by_rays(vertices, triangles, indices, slack):
    """bool [P]: line of sight of each landmark against every triangle, float64."""
    corners = vertices[triangles].astype(np.float64)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    hidden = np.zeros(len(indices), bool)
    for place, index in enumerate(indices):
        p = vertices[index] - corners[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            w1 = (p[:, 0] * b[:, 1] - p[:, 1] * b[:, 0]) / area
            w2 = (a[:, 0] * p[:, 1] - a[:, 1] * p[:, 0]) / area
            over = (w1 >= 0) & (w2 >= 0) & (w1 + w2 <= 1) & (w1 * a[:, 2] + w2 * b[:, 2] > p[:, 2] + slack)
        hidden[place] = (over & (triangles != index).all(axis=1)).any()
    return hidden


@pytest.mark.parametrize("yaw", [-90, -65, -30, 0, 40, 80, 90])
def test_landmarks_behind_a_triangle_are_hidden(head, yaw):
    points, triangles, indices = head
    vertices = posed(points, yaw, pitch=7)
    visible = visible_landmarks(vertices, triangles, indices, 280, 280)
    expected = ~hidden_by_rays(vertices, triangles, indices, 0.02 * np.ptp(vertices, axis=0).max())
    assert (visible == expected).mean() > 0.98
    if yaw == 0:
        assert visible.mean() > 0.9


@pytest.mark.parametrize("yaw", [90, -90])
def test_a_profile_has_one_visible_eye_and_cheek(head, yaw):
    points, triangles, indices = head
    visible = visible_landmarks(posed(points, yaw), triangles, indices)
    left, right = [*range(36, 42), *range(17, 21), *range(1, 6)], [*range(42, 48), *range(23, 27), *range(11, 16)]
    near, far = (left, right) if yaw > 0 else (right, left)
    assert visible[near].mean() > 0.75 and not visible[far].any()
    assert visible[[27, 28, 29, 30]].all()


def test_the_mirrored_pose_has_the_mirrored_visible_landmarks(head):
    points, triangles, indices = head
    one = visible_landmarks(posed(points, 55), triangles, indices)
    other = visible_landmarks(posed(points, -55), triangles, indices)
    np.testing.assert_array_equal(one, other[MIRROR_68])


@pytest.mark.parametrize("size", [20, 3000])
def test_visibility_does_not_depend_on_the_size_of_the_face(head, size):
    points, triangles, indices = head
    expected = visible_landmarks(posed(points, 70), triangles, indices)
    found = visible_landmarks(posed(points, 70, size), triangles, indices)
    assert (found == expected).mean() > 0.98


def test_landmarks_outside_the_picture_are_hidden_only_if_its_size_is_given(head):
    points, triangles, indices = head
    vertices = posed(points, 0)
    cut = visible_landmarks(vertices, triangles, indices, 280, 140)
    assert not cut[vertices[indices, 0] >= 139.5].any() and cut[vertices[indices, 0] < 139].mean() > 0.9
    assert visible_landmarks(vertices, triangles, indices).mean() > 0.9
    broken = vertices.copy()
    broken[indices[30]] = np.nan
    assert not visible_landmarks(broken, triangles, indices)[30]


def test_drawing_a_face_changes_only_pixels_near_it(head):
    points, triangles, indices = head
    photo = np.full((900, 1500, 3), GREY, np.uint8)
    vertices = posed(points, 20, 100) + np.float32([700, 300, 0])
    drawn = overlay.draw_face(photo, vertices, triangles, indices)
    assert (photo == GREY).all()
    rows, columns = np.nonzero((drawn != GREY).any(axis=-1))
    low, high = vertices[:, :2].min(axis=0), vertices[:, :2].max(axis=0)
    assert abs(columns.min() - low[0]) < 3 and abs(columns.max() - high[0]) < 3
    assert abs(rows.min() - low[1]) < 3 and abs(rows.max() - high[1]) < 3
    only_mesh = overlay.draw_face(photo, vertices, triangles, indices, landmarks=False)
    assert (only_mesh != drawn).any()
    np.testing.assert_array_equal(
        overlay.draw_face(photo, vertices, triangles, indices, mesh=False, landmarks=False), photo
    )


@pytest.mark.parametrize("shift", [(-40, 30), (150, -60), (5000, 0)])
def test_a_mesh_drawn_in_tiles_equals_one_render_of_the_whole_picture(shift, monkeypatch):
    points, triangles = ball(40, 40)
    vertices = in_picture(points, 200) + np.float32([*shift, 0])
    canvas = np.random.default_rng(0).integers(0, 256, (220, 240, 3)).astype(np.uint8)
    image, mask = shading.render(
        vertices,
        triangles,
        np.broadcast_to(np.float32(overlay.CLAY_BGR), vertices.shape),
        220,
        240,
        light=overlay.HEAD_LIGHT,
    )
    cover = 0.7 * mask[..., None]
    whole = np.clip(np.round(canvas * (1 - cover) + 255 * 0.7 * image), 0, 255).astype(np.uint8)
    for tile in (1024, 50):
        monkeypatch.setattr(overlay, "_TILE", tile)
        drawn = overlay.draw_mesh(canvas, vertices, triangles, scale=1, opacity=0.7)
        assert np.abs(drawn.astype(int) - whole).max() <= 1


def test_marks_grow_with_the_face_and_stay_visible(head):
    points, triangles, indices = head
    photo = np.full((1300, 1300, 3), GREY, np.uint8)
    shares, counts = [], []
    for size in (20, 100, 250, 900):
        landmarks = posed(points, 0, size)[indices]
        changed = (draw_face_landmarks(photo, landmarks) != GREY).any(axis=-1).sum()
        counts.append(changed)
        shares.append(changed / np.prod(np.ptp(landmarks[:, :2], axis=0)))
    assert counts[0] > 50 and sorted(counts) == counts
    assert max(shares[2:]) < 4 * min(shares[2:]) and max(shares[1:]) < 0.6
    assert drawing.face_unit(np.full((68, 2), np.nan)) > 0


def test_the_unit_of_marks_is_one_on_an_enlarged_crop():
    landmarks = np.random.default_rng(0).uniform(17, 102, (68, 2))
    landmarks[:2] = [[17, 17], [102, 102]]
    assert abs(drawing.face_unit(landmarks, scale=3) - 1) < 0.01


def test_hidden_landmarks_are_rings_with_faint_lines():
    landmarks = np.full((68, 2), np.nan)
    landmarks[:17] = np.stack([20 + 30 * np.arange(17), np.full(17, 40)], axis=1)
    photo = np.full((80, 540, 3), GREY, np.uint8)
    visible = np.arange(68) < 10
    drawn = np.abs(draw_face_landmarks(photo, landmarks, visible).astype(int) - GREY).sum(axis=-1)
    centre, between = drawn[40, 20::30], drawn[40, 35::30]
    assert (centre[:10] > 250).all() and (centre[10:17] < 0.6 * centre[0]).all()
    assert (between[9:16] < 0.6 * between[0]).all() and (between[9:16] > 0).all()


def test_visible_vertices_are_drawn_as_dots_in_the_colours_of_their_codes(head):
    points, triangles, indices = head
    vertices = posed(points, 0)
    photo = np.full((280, 280, 3), GREY, np.uint8)
    visible = vertices[:, 0] < 140
    drawn = overlay.draw_dense(photo, vertices, visible, np.tile([1.0, 0.0, 0.0], (len(vertices), 1)))
    changed = (drawn != GREY).any(axis=-1)
    assert changed[:, :138].any() and not changed[:, 144:].any()
    assert 0.02 < changed[:, :140].mean() < 0.4, "dots with the photo between them"
    assert (drawn[changed][:, 2] >= drawn[changed][:, 0]).all() and drawn[..., 2].max() > 200
    np.testing.assert_array_equal(overlay.draw_dense(photo, vertices, np.zeros(len(vertices), bool), vertices), photo)
