"""Face profiling: an unturned photo stays as it is, a turned one resembles the same face drawn in that pose."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.helpers_face_files import photo
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry.contour import contour_landmarks, contour_lines, JAW
from twodal_jax.rendering import profiling, rasterizer, shading

MARGIN = 60
SIZE = 120 + 2 * MARGIN
UPRIGHT = np.array([1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def face():
    """Mean face of the built-in model, seen from the front: vertices in crop pixels, and its painted photo."""
    model = load_morphable_model("builtin")
    points = np.asarray(model.mean, np.float64).T
    box = points[model.landmark_indices, :2]
    centre = np.append((box.min(axis=0) + box.max(axis=0)) / 2, points[model.landmark_indices, 2].mean())
    vertices = (points - centre) * UPRIGHT * 85 / np.ptp(box, axis=0).max() + [59.5, 59.5, 0]
    phase = points / np.ptp(points, axis=0) * 25
    colours = 127 + 60 * np.sin(phase + [0, 1, 2]) + 40 * np.cos(phase[:, [1, 2, 0]])
    return model, vertices, colours


def drawn(model, vertices, colours):
    """Painted mesh over a smooth background, uint8 [240, 240, 3], and its fragments."""
    fragments = rasterizer.rasterize(vertices + [MARGIN, MARGIN, 0], model.triangles, SIZE, SIZE)
    inside = fragments.triangle_index >= 0
    picture = np.where(inside[..., None], shading.interpolate(colours, model.triangles, fragments), photo(SIZE))
    return np.rint(picture).clip(0, 255).astype(np.uint8), fragments


def relief(model, vertices, image):
    border = profiling.border_vertices(np.asarray(model.triangles))
    return profiling.relief(image, vertices, np.asarray(model.triangles), np.asarray(model.landmark_indices), border)


def yaw(degrees):
    return profiling.head_turn(np.eye(3), degrees, 0.0)


def rotated(vertices, surfaces, rotation):
    """Independent of `profiling.rotated`: y up, turned, y down."""
    return ((vertices - surfaces.centre) * UPRIGHT) @ rotation.T * UPRIGHT + surfaces.centre


def psnr(one, other):
    return 10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-3))


def test_turn_by_nothing_is_the_photo(face):
    model, vertices, colours = face
    image, _ = drawn(model, vertices, colours)
    image = cv2.add(image, photo(SIZE, 1) // 8)
    same = profiling.turn(relief(model, vertices, image), np.eye(3), np.array([0, 0, 1.0]), 20)
    assert psnr(same, image[40:-40, 40:-40]) > 45


def test_turned_face_resembles_the_face_drawn_in_that_pose(face):
    model, vertices, colours = face
    image, _ = drawn(model, vertices, colours)
    surfaces = relief(model, vertices, image)
    after = rotated(vertices, surfaces, yaw(40))
    expected, fragments = drawn(model, after, colours)
    turned = profiling.turn(surfaces, yaw(40), np.array([0, 0, 1.0]), MARGIN)
    canvas = vertices + [MARGIN, MARGIN, 0]
    shown = rasterizer.visible_vertices(canvas, model.triangles, SIZE, SIZE, 1.0)
    shown &= shading.vertex_normals(vertices * UPRIGHT, model.triangles)[:, 2] > 0.3
    both = (fragments.triangle_index >= 0) & shown[model.triangles].all(axis=1)[fragments.triangle_index]
    assert both.sum() > 3000
    assert psnr(turned[both], expected[both]) > 22
    assert psnr(image[both], expected[both]) < 18  # the measure tells the poses apart


def test_photo_moves_with_the_landmarks(face):
    """Dots at landmarks of the unturned photo lie at the turned landmarks afterwards."""
    model, vertices, colours = face
    marks = np.asarray(model.landmark_indices)[[17, 19, 21, 27, 28, 36, 48]]
    surfaces = relief(model, vertices, drawn(model, vertices, colours)[0])
    sign = np.sign(vertices[marks[0], 0] - surfaces.centre[0])
    rotation = yaw(40)
    if np.sign((rotated(vertices, surfaces, rotation) - vertices)[model.landmark_indices[30], 0]) == sign:
        rotation = yaw(-40)  # the side of the marks turns towards the camera
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1) - MARGIN
    for mark, expected in zip(marks, rotated(vertices, surfaces, rotation)[marks, :2]):
        dot = 255 * np.exp(-((grid - vertices[mark, :2]) ** 2).sum(axis=-1) / 1.5)
        image = np.repeat(np.rint(dot)[..., None], 3, axis=2).astype(np.uint8)
        bright = profiling.turn(surfaces._replace(image=image), rotation, np.array([0, 0, 1.0]), MARGIN)[..., :1]
        near = bright * (np.linalg.norm(grid - expected, axis=-1) < 7)[..., None]
        found = (near * grid).sum(axis=(0, 1)) / near.sum()
        assert np.linalg.norm(found - expected) < 0.3, mark


def test_new_crop_is_the_window_of_the_old_one(face):
    model, vertices, colours = face
    surfaces = relief(model, vertices, drawn(model, vertices, colours)[0])
    whole = profiling.turn(surfaces, yaw(30), np.array([0, 0, 1.0]), MARGIN)
    window = profiling.turn(surfaces, yaw(30), np.array([7.0, -4.0, 1.0]), 0)
    assert psnr(window, whole[MARGIN - 4 : MARGIN + 116, MARGIN + 7 : MARGIN + 127]) > 45


def test_head_turns_about_its_own_axis():
    roll, pitch, start = Rotation.from_euler("ZXY", [-20, -10, -30], degrees=True).as_matrix(), 5.0, 40.0
    np.testing.assert_allclose(profiling.head_angles(roll), [20, 10, 30], atol=1e-9)
    turned = profiling.head_turn(roll, start, pitch) @ roll
    np.testing.assert_allclose(profiling.head_angles(turned), [20, 15, 70], atol=1e-9)
    # About the axis from the neck to the crown, which the turn leaves in place.
    np.testing.assert_allclose(profiling.head_turn(roll, start, 0.0) @ roll[:, 1], roll[:, 1], atol=1e-12)


def test_turned_pose_projects_the_turned_vertices(face):
    model, vertices, colours = face
    surfaces = relief(model, vertices, drawn(model, vertices, colours)[0])
    mean = np.asarray(model.mean, np.float64)
    ones = np.concatenate([mean, np.ones((1, mean.shape[1]))])
    up = np.concatenate([vertices[:, :1], 121 - vertices[:, 1:2], vertices[:, 2:]], axis=1)
    pose = np.linalg.lstsq(ones.T, up, rcond=None)[0].T
    moved = (profiling.turned_pose(pose, yaw(25), surfaces.centre) @ ones).T
    moved[:, 1] = 121 - moved[:, 1]
    np.testing.assert_allclose(moved, rotated(vertices, surfaces, yaw(25)), atol=1e-3)


def test_contour_landmarks_lie_on_the_outline(face):
    model, vertices, colours = face
    surfaces = relief(model, vertices, drawn(model, vertices, colours)[0])
    lines, directions = contour_lines(model)
    front = contour_landmarks(vertices[lines], directions, 0.0)
    assert np.linalg.norm(front - vertices[lines[:, 0], :2], axis=1).mean() < 1.5
    after = rotated(vertices, surfaces, yaw(55))
    inside = np.isfinite(drawn(model, after, colours)[1].depth)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    away = np.sign((after - vertices)[model.landmark_indices[30], 0]) * (vertices - 59.5)[lines[:, 0], 0] > 15
    moved = contour_landmarks(after[lines], directions, 0.0)

    def inside_by(points):
        return depth[tuple(np.rint(points[away] + MARGIN).astype(int).T[::-1])]

    assert away.sum() >= 4
    assert inside_by(moved).max() < 7
    assert inside_by(after[lines[:, 0], :2]).max() > 12
    assert moved.shape == (JAW, 2)


@pytest.mark.parametrize("change", [np.nan, 1e3])
def test_meshes_that_are_no_face_are_refused(face, change):
    model, vertices, _ = face
    with pytest.raises(ValueError, match="vertices"):
        relief(model, vertices * change, np.zeros((SIZE, SIZE, 3), np.uint8))
