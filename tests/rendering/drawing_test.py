"""Drawings of landmarks, heatmaps and meshes are at the right pixels of the photo."""

import base64

import cv2
import numpy as np
import pytest

from twodal_jax.geometry import heatmap
from twodal_jax.rendering import drawing, overlay

GREY = np.full((120, 120, 3), 90, np.uint8)


def changed(before, after):
    """(x, y) of every pixel that differs."""
    rows, columns = np.nonzero((before != after).any(axis=-1))
    return np.stack([columns, rows], axis=1)


def face68():
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    return 60 + np.stack([40 * np.cos(angle), 45 * np.sin(angle)], axis=1)


@pytest.mark.parametrize("scale", [1, 3, 4])
def test_a_landmark_is_drawn_at_its_pixel(scale):
    image = np.zeros((120, 120, 3), np.uint8)
    image[70, 30] = 255
    canvas = drawing.upscale(image, scale)
    rows, columns = np.nonzero(canvas[..., 0] > 100)
    centre_of_pixel = np.array([columns.mean(), rows.mean()])
    marked = drawing.draw_landmarks(drawing.upscale(GREY, scale), [[30, 70]], scale=scale)
    centre_of_mark = changed(drawing.upscale(GREY, scale), marked).mean(axis=0)
    np.testing.assert_allclose(centre_of_mark, centre_of_pixel, atol=0.3)


def test_landmarks_are_drawn_with_subpixel_precision():
    canvas = drawing.upscale(GREY, 4)
    at = [drawing.draw_landmarks(canvas, [[x, 60.0]], scale=4).astype(float) for x in (60.0, 60.05)]
    assert np.abs(at[0] - at[1]).max() > 0


def test_the_68_landmarks_are_joined_within_each_feature_only():
    points = np.full((68, 2), 60.0)
    points[17:22] = np.stack([np.linspace(10, 40, 5), np.full(5, 20.0)], axis=1)
    points[22:27] = np.stack([np.linspace(80, 110, 5), np.full(5, 20.0)], axis=1)
    canvas = drawing.upscale(GREY, 3)
    row = drawing.draw_landmarks(canvas, points, scale=3)[61] != 90
    between_points, between_brows = row[3 * 14 + 1], row[3 * 50 : 3 * 70]
    assert between_points.any() and not between_brows.any()


def test_hidden_landmarks_are_hollow_and_visible_ones_filled():
    canvas = drawing.upscale(GREY, 3)
    points = [[30, 60], [90, 60]]
    marked = drawing.draw_landmarks(canvas, points, scale=3, visible=[1, 0])
    centres = np.round(drawing.to_canvas(points, 3)).astype(int)
    filled, hollow = (marked[y, x] for x, y in centres)
    assert (filled == drawing.PREDICTED_BGR).all() and (hollow == 90).all()
    assert len(changed(canvas[:, 180:], marked[:, 180:])) > 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9, -1e9])
def test_points_that_cannot_be_drawn_are_skipped(bad):
    points = face68()
    points[5] = bad
    canvas = drawing.upscale(GREY, 3)
    assert len(changed(canvas, drawing.draw_landmarks(canvas, points, scale=3))) > 100
    assert len(changed(canvas, drawing.draw_numbered(canvas, points[:18], scale=3))) > 100


def test_mirroring_swaps_the_sides_of_the_landmarks():
    other = {"L": "R", "R": "L", "C": "C"}
    mirrored = [drawing.SIDES[i] for i in heatmap.MIRROR_WITH_JAW]
    assert mirrored == [other[side] for side in drawing.SIDES]
    for name, side in zip(heatmap.LANDMARK_NAMES + heatmap.JAW_NAMES, drawing.SIDES, strict=True):
        assert ("left" in name, "right" in name) == (side == "L", side == "R")


def test_no_function_changes_its_input():
    canvas = drawing.upscale(GREY, 3)
    before = canvas.copy()
    drawing.draw_landmarks(canvas, face68())
    drawing.draw_numbered(canvas, face68()[:18])
    drawing.draw_numbered(canvas, face68()[:21])
    drawing.caption(canvas, "text")
    assert drawing.upscale(GREY, 1) is not GREY
    np.testing.assert_array_equal(canvas, before)


def test_a_heatmap_picture_is_brightest_at_the_landmark_and_dark_elsewhere():
    values = -np.ones((120, 120, 1), np.float32)
    values[30, 40] = 1.0
    picture = drawing.heatmap_picture(values, scale=1)
    assert picture.dtype == np.uint8 and picture.shape == (120, 120, 3)
    assert np.unravel_index(picture.sum(-1).argmax(), (120, 120)) == (30, 40)
    assert picture[90, 90].max() < 20


def test_an_encoded_picture_decodes_to_itself():
    picture = drawing.upscale(drawing.heatmap_picture(np.zeros((20, 30)), 1), 2)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(drawing.encode_jpeg(picture)), np.uint8), 1)
    assert decoded.shape == picture.shape and np.abs(decoded.astype(int) - picture).max() <= 6


@pytest.mark.parametrize("picture", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
def test_other_arrays_are_errors_that_name_their_shape(picture):
    with pytest.raises(ValueError, match=r"BGR uint8.*\(8, 8"):
        drawing.upscale(picture)


def test_panels_contain_every_picture_and_long_captions_fit():
    red, blue = np.full((40, 40, 3), (0, 0, 255), "u1"), np.full((40, 40, 3), (255, 0, 0), "u1")
    sheet = drawing.panels([[red, blue], [blue]], gap=5)
    assert sheet.shape == (95, 95, 3)
    assert (sheet[5:45, 50:90] == blue).all() and (sheet[50:90, 5:45] == blue).all()
    captioned = drawing.caption(drawing.upscale(red, 4), "a very long name " * 9)
    assert captioned.shape[1] == 160 and (captioned[-1] == 255).all()


def tilted_square(z_left=0.0):
    """Square of two triangles, counter-clockwise seen by the viewer when y is up."""
    vertices = np.array([[30, 30, z_left], [90, 30, 0], [90, 90, 0], [30, 90, z_left]], np.float32)
    return vertices, np.array([[0, 2, 1], [0, 3, 2]])


def draw_square(canvas, opacity, z_left=0.0):
    return overlay.draw_mesh(canvas, *tilted_square(z_left), scale=3, opacity=opacity)


def test_a_mesh_covers_its_outline_and_blends_with_the_picture():
    canvas = drawing.upscale(GREY, 3)
    drawn = draw_square(canvas, opacity=0.5)
    low, high = changed(canvas, drawn).min(axis=0), changed(canvas, drawn).max(axis=0)
    np.testing.assert_allclose([low, high], drawing.to_canvas([[30, 30], [90, 90]], 3), atol=1.01)
    solid = draw_square(canvas, opacity=1.0)[180, 180].astype(float)
    np.testing.assert_allclose(drawn[180, 180], (solid + 90) / 2, atol=1)
    np.testing.assert_array_equal(draw_square(canvas, opacity=0.0), canvas)
    facing, turned = (draw_square(canvas, 1.0, z_left)[180, 180].sum() for z_left in (0.0, -120.0))
    assert turned < 0.8 * facing


def test_an_example_has_four_pictures_of_one_size():
    vertices, triangles = tilted_square()
    pictures = overlay.example_pictures(
        GREY, -np.ones((120, 120, 1)), face68(), vertices, triangles, landmarks_true=face68() + 2
    )
    assert list(pictures) == ["input", "landmark heatmap", "68 landmarks", "dense mesh"]
    assert {p.shape for p in pictures.values()} == {(360, 360, 3)}
    for color in (drawing.PREDICTED_BGR, drawing.TRUE_BGR):
        assert (pictures["68 landmarks"] == color).all(axis=-1).any()
