"""Depth and PNCC of a sphere, compared with their closed forms."""

import numpy as np
import pytest
from helpers_mesh import ball, in_picture

from twodal_jax.rendering import maps, rasterizer

SIZE, RADIUS = 160, 0.4 * 160


def sphere_maps(yaw=0.0):
    """Depth and PNCC of the unit sphere turned by yaw degrees, and the mask of its pixels."""
    points, triangles = ball()
    vertices = in_picture(points, SIZE, yaw)
    fragments = rasterizer.rasterize(vertices, triangles, SIZE, SIZE)
    pncc = maps.pncc(maps.normalised_coordinates(points.T), triangles, fragments)
    return maps.depth_map(fragments), pncc, fragments.triangle_index >= 0


def unit_coordinates():
    """x, y (up) and z of the unit sphere at each pixel, and the mask of pixels away from its outline."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    x, y = columns / RADIUS, -rows / RADIUS
    squared = x**2 + y**2
    inside = (squared < 0.9) & (np.abs(y) < 0.9)
    return np.stack([x, y, np.sqrt(np.maximum(1 - squared, 0))], axis=-1), inside


def test_depth_and_pncc_of_a_sphere_match_their_closed_forms():
    depth, pncc, mask = sphere_maps()
    expected, inside = unit_coordinates()
    np.testing.assert_allclose(depth[inside], RADIUS * expected[inside][:, 2], atol=0.25)
    np.testing.assert_array_equal(np.isfinite(depth), mask)
    assert depth.dtype == np.float32 and not mask[0, 0]
    points, _ = ball()
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    np.testing.assert_allclose(pncc[inside], ((expected - low) / size)[inside], atol=0.005)
    assert (pncc[~mask] == 0).all()


def test_pncc_turns_with_the_surface():
    # The middle of the picture shows the point of the mean shape that was at the side: x = -1 or 1, z = 0.
    x, y, z = sphere_maps(yaw=90)[1][SIZE // 2, SIZE // 2]
    assert min(x, 1 - x) < 0.01 and abs(y - 0.5) < 0.02 and abs(z - 0.5) < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depths_can_be_recovered_from_a_depth_picture(dtype):
    depth = np.array([[np.nan, -3.0], [0.5, 7.0]], np.float32)
    picture = maps.depth_picture(depth, dtype, low=-5, high=10)
    largest = np.iinfo(dtype).max
    assert picture.dtype == dtype and picture[0, 0] == 0 and (picture.ravel()[1:] > 0).all()
    read = -5 + (picture.astype(float) - 1) / (largest - 1) * 15
    np.testing.assert_allclose(read.ravel()[1:], depth.ravel()[1:], atol=15 / largest)


def test_a_depth_picture_uses_the_full_range_and_near_is_bright():
    picture = maps.depth_picture(np.array([[1.0, 2.0, np.nan]], np.float32))
    assert picture.tolist() == [[1, 255, 0]]
    assert maps.depth_picture(np.full((2, 3), np.nan)).tolist() == [[0] * 3] * 2
    assert maps.depth_picture(np.full((1, 2), 5.0)).min() >= 1


def test_pictures_are_bgr():
    assert maps.pncc_picture(np.array([[[1.0, 0.5, 0.0]]])).tolist() == [[[0, 128, 255]]]


def test_errors_name_the_wrong_argument():
    with pytest.raises(ValueError, match="dtype"):
        maps.depth_picture(np.zeros((2, 2)), np.int32)
    with pytest.raises(ValueError, match="mean"):
        maps.normalised_coordinates(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="three dimensions"):
        maps.normalised_coordinates(np.array([[0, 1.0], [0, 0], [0, 1]]))
