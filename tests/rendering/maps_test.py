"""Depth, normals and PNCC against a sphere, of which all three are known."""

import numpy as np
import pytest
from helpers_mesh import ball, in_picture

from twodal_jax.rendering import maps, rasterizer

SIZE, RADIUS = 160, 0.4 * 160


@pytest.fixture(scope="module")
def sphere_maps():
    points, triangles = ball()
    return maps.render_maps(in_picture(points, SIZE), triangles, SIZE, SIZE, mean=points.T)


def unit_coordinates():
    """x, y (up) and z of the unit sphere at each pixel, and where it is well inside."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    x, y = columns / RADIUS, -rows / RADIUS
    squared = x**2 + y**2
    inside = (squared < 0.9) & (np.abs(y) < 0.9)
    return np.stack([x, y, np.sqrt(np.maximum(1 - squared, 0))], axis=-1), inside


def test_depth_is_that_of_the_sphere_and_nan_outside(sphere_maps):
    expected, inside = unit_coordinates()
    np.testing.assert_allclose(sphere_maps.depth[inside], RADIUS * expected[inside][:, 2], atol=0.25)
    assert np.isnan(sphere_maps.depth[0, 0]) and sphere_maps.depth.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(sphere_maps.depth), sphere_maps.mask)


def test_normals_are_those_of_the_sphere_with_y_up(sphere_maps):
    expected, inside = unit_coordinates()
    assert (np.sum(sphere_maps.normals * expected, axis=-1)[inside] > 0.999).all()
    np.testing.assert_allclose(np.linalg.norm(sphere_maps.normals[sphere_maps.mask], axis=-1), 1, atol=1e-5)
    assert (sphere_maps.normals[~sphere_maps.mask] == 0).all()


def test_pncc_of_the_mean_is_its_own_normalised_coordinates(sphere_maps):
    expected, inside = unit_coordinates()
    points, _ = ball()
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    np.testing.assert_allclose(sphere_maps.pncc[inside], ((expected - low) / size)[inside], atol=0.005)
    assert (sphere_maps.pncc[~sphere_maps.mask] == 0).all()


def test_pncc_stays_with_the_surface_when_the_head_turns():
    points, triangles = ball()
    turned = maps.render_maps(in_picture(points, SIZE, yaw=90), triangles, SIZE, SIZE, mean=points.T)
    # The middle of the picture now shows the point of the mean that looks to the left: x = -1 or 1, z = 0.
    x, y, z = turned.pncc[SIZE // 2, SIZE // 2]
    assert min(x, 1 - x) < 0.01 and abs(y - 0.5) < 0.02 and abs(z - 0.5) < 0.02


def test_one_rasterisation_gives_the_same_maps_as_each_function(sphere_maps):
    points, triangles = ball()
    vertices = in_picture(points, SIZE)
    fragments = rasterizer.rasterize(vertices, triangles, SIZE, SIZE)
    np.testing.assert_array_equal(maps.depth_map(fragments), sphere_maps.depth)
    np.testing.assert_array_equal(maps.normal_map(vertices, triangles, fragments), sphere_maps.normals)
    codes = maps.normalised_coordinates(points.T)
    np.testing.assert_array_equal(maps.pncc(codes, triangles, fragments), sphere_maps.pncc)
    assert maps.render_maps(vertices, triangles, SIZE, SIZE).pncc is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_depth_picture_can_be_read_back(dtype):
    depth = np.array([[np.nan, -3.0], [0.5, 7.0]], np.float32)
    picture = maps.depth_picture(depth, dtype, low=-5, high=10)
    largest = np.iinfo(dtype).max
    assert picture.dtype == dtype and picture[0, 0] == 0 and (picture.ravel()[1:] > 0).all()
    read = -5 + (picture.astype(float) - 1) / (largest - 1) * 15
    np.testing.assert_allclose(read.ravel()[1:], depth.ravel()[1:], atol=15 / largest)


def test_a_depth_picture_uses_its_whole_range_and_near_is_bright():
    picture = maps.depth_picture(np.array([[1.0, 2.0, np.nan]], np.float32))
    assert picture.tolist() == [[1, 255, 0]]
    assert maps.depth_picture(np.full((2, 3), np.nan)).tolist() == [[0] * 3] * 2
    assert maps.depth_picture(np.full((1, 2), 5.0)).min() >= 1


def test_pictures_are_bgr():
    assert maps.pncc_picture(np.array([[[1.0, 0.5, 0.0]]])).tolist() == [[[0, 128, 255]]]
    assert maps.normal_picture(np.array([[[0.0, 0.0, 1.0], [0, 0, 0]]])).tolist() == [[[255, 128, 128], [0] * 3]]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="dtype"):
        maps.depth_picture(np.zeros((2, 2)), np.int32)
    with pytest.raises(ValueError, match="mean"):
        maps.normalised_coordinates(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="three dimensions"):
        maps.normalised_coordinates(np.array([[0, 1.0], [0, 0], [0, 1]]))
