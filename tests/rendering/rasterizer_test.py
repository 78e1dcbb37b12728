"""Rasteriser and shading: compared with a brute-force reference and with a sphere; unusual input."""

import time

import numpy as np
import pytest
from helpers_mesh import ball, in_picture

from twodal_jax.rendering import rasterizer, shading


def reference(vertices, triangles, height, width):
    """Index and depth of the nearest triangle: every triangle against every pixel, float64, inclusive edges."""
    index = np.full((height, width), -1)
    depth = np.full((height, width), -np.inf)
    rows, columns = np.mgrid[:height, :width]
    for t, corners in enumerate(triangles):
        (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = vertices[corners].astype(np.float64)
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if area == 0 or not np.isfinite(area):
            continue
        w0 = ((x1 - columns) * (y2 - rows) - (y1 - rows) * (x2 - columns)) / area
        w1 = ((x2 - columns) * (y0 - rows) - (y2 - rows) * (x0 - columns)) / area
        w2 = 1 - w0 - w1
        z = w0 * z0 + w1 * z1 + w2 * z2
        nearer = (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (z > depth)
        depth[nearer], index[nearer] = z[nearer], t
    return index, depth


def random_mesh(seed, spread, count=150, size=40):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-10, size + 10, (count, 1, 3))
    vertices = (centre + rng.normal(0, spread, (count, 3, 3))).reshape(-1, 3)
    return vertices.astype(np.float32), np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


def sphere(size, rows=120):
    """Points of the unit sphere, its vertices in a picture, its triangles."""
    points, triangles = ball(rows, rows)
    return points, in_picture(points, size), triangles


@pytest.mark.parametrize("spread", [0.3, 2.0, 30.0])
def test_triangles_and_depths_match_brute_force(spread):
    vertices, triangles = random_mesh(1, spread)
    expected_index, expected_depth = reference(vertices, triangles, 40, 36)
    fragments = rasterizer.rasterize(vertices, triangles, 40, 36)
    same = fragments.triangle_index == expected_index
    assert same.mean() >= 0.999
    covered = same & (expected_index >= 0)
    assert covered.any()
    np.testing.assert_allclose(fragments.depth[covered], expected_depth[covered], atol=1e-4, rtol=1e-5)
    flipped = rasterizer.rasterize(vertices, triangles[:, ::-1], 40, 36)
    assert (flipped.triangle_index == fragments.triangle_index).mean() >= 0.999, "winding must not matter"


def test_barycentric_weights_reproduce_the_pixel_centres():
    vertices, triangles = random_mesh(2, 5.0)
    fragments = rasterizer.rasterize(vertices, triangles, 40, 36)
    points = shading.interpolate(vertices, triangles, fragments)
    rows, columns = np.nonzero(fragments.triangle_index >= 0)
    expected = np.stack([columns, rows, fragments.depth[rows, columns]], axis=1)
    np.testing.assert_allclose(points[rows, columns], expected, atol=1e-3)


def test_larger_z_is_nearer():
    corners = [[-1, -1], [20, -1], [-1, 20]]
    vertices = np.array([[x, y, z] for z in (1.0, 2.0) for x, y in corners], np.float32)
    for triangles in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        fragments = rasterizer.rasterize(vertices, np.array(triangles), 8, 8)
        assert (fragments.depth == 2.0).all()


def test_bad_triangles_are_skipped_without_an_effect_on_the_others():
    vertices, triangles = random_mesh(4, 4.0)
    clean = rasterizer.rasterize(vertices, triangles, 40, 40)
    nan, inf, n = np.nan, np.inf, len(vertices)
    bad = np.array([[nan, 5, 5], [5, nan, 5], [5, 5, nan], [inf, 5, 5], [5, 5, 99], [1e30, -1e30, 5]], np.float32)
    indices = [*([n + i, n + 4, 0] for i in range(4)), [n + 4] * 3, [n + 4, 0, n + 4], [-1, 0, 1], [0, 1, n + 6]]
    extra = np.array(indices, np.int32)
    dirty = rasterizer.rasterize(np.concatenate([vertices, bad]), np.concatenate([triangles, extra]), 40, 40)
    np.testing.assert_array_equal(dirty.triangle_index, clean.triangle_index)
    np.testing.assert_array_equal(dirty.depth, clean.depth)


@pytest.mark.parametrize("vertices", [random_mesh(5, 2.0)[0] + np.float32(500), np.zeros((0, 3))])
def test_a_mesh_outside_the_image_or_without_vertices_gives_an_empty_image(vertices):
    fragments = rasterizer.rasterize(vertices, random_mesh(5, 2.0)[1], 20, 30)
    assert fragments.triangle_index.shape == (20, 30)
    assert (fragments.triangle_index == -1).all() and (fragments.barycentric == 0).all()
    assert np.isneginf(fragments.depth).all()


@pytest.mark.parametrize(
    "vertices, triangles, name",
    [(np.zeros((4, 2)), np.zeros((1, 3)), "vertices"), (np.zeros((4, 3)), np.zeros((3,)), "triangles")],
)
def test_errors_name_the_argument_of_wrong_shape(vertices, triangles, name):
    with pytest.raises(ValueError, match=name):
        rasterizer.rasterize(vertices, triangles, 8, 8)


def test_the_near_half_of_a_sphere_within_the_image_is_visible():
    points, vertices, triangles = sphere(100)
    visible = rasterizer.visible_vertices(vertices, triangles, 100, 100)
    # Within two pixels of the outline depth falls too steeply for pixel centres to decide.
    assert visible[points[:, 2] > 0.3].all() and not visible[points[:, 2] < -0.3].any()
    vertices[:, 0] += 50
    visible = rasterizer.visible_vertices(vertices, triangles, 100, 100)
    assert not visible[vertices[:, 0] > 100].any() and visible.any()


def test_normals_of_a_sphere_point_outwards():
    points, _, triangles = sphere(100)
    normals = shading.vertex_normals(points, triangles)
    assert (np.sum(normals * points, axis=1)[np.abs(points[:, 1]) < 0.98] > 0.995).all()


def test_a_render_is_brightest_towards_the_light_and_keeps_the_background():
    _, vertices, triangles = sphere(60)
    light = shading.Light(direction=(-1.0, 1.0, 0.5), specular=0.0)
    background = np.full((60, 60, 3), 0.5, np.float32)
    image, mask = shading.render(vertices, triangles, np.ones_like(vertices), 60, 60, light, background, shadows=True)
    assert image[16, 16].mean() > 2 * image[44, 44].mean()
    np.testing.assert_allclose(image[mask == 0], 0.5, atol=1e-6)
    assert abs(mask.sum() - np.pi * 24**2) < 0.02 * np.pi * 24**2


def test_a_closed_mesh_is_the_same_without_its_back_and_an_open_one_is_not():
    _, vertices, triangles = sphere(60)
    whole, front = (rasterizer.rasterize(vertices, triangles, 60, 60, front_only=only) for only in (False, True))
    np.testing.assert_array_equal(whole.triangle_index, front.triangle_index)
    back = triangles[np.unique(rasterizer.rasterize(vertices * [1, 1, -1], triangles, 60, 60).triangle_index)[1:]]
    assert (rasterizer.rasterize(vertices, back, 60, 60).triangle_index >= 0).any()
    assert (rasterizer.rasterize(vertices, back, 60, 60, front_only=True).triangle_index < 0).all()


def test_a_fine_mesh_looks_as_one_shaded_pixel_by_pixel():
    _, vertices, triangles = sphere(60)
    colours = np.random.default_rng(0).uniform(0.4, 0.6, vertices.shape)
    image, mask = shading.render(vertices, triangles, colours, 60, 60)
    fine, fine_mask = shading.render(vertices, triangles, colours, 60, 60, fine_mesh=True)
    np.testing.assert_allclose(fine_mask, mask, atol=1e-6)
    assert np.abs(fine - image).max() < 0.02


@pytest.mark.slow
def test_a_mesh_of_the_size_of_a_face_model_is_rasterised_in_milliseconds():
    _, vertices, triangles = sphere(120, rows=230)
    rasterizer.rasterize(vertices, triangles, 120, 120)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        rasterizer.rasterize(vertices, triangles, 120, 120)
        times.append(time.perf_counter() - start)
    # About 1.5 ms on an idle core; the limit leaves room for a busy machine.
    assert min(times) < 0.006


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_a_batch_equals_single_calls(threads):
    vertices = np.stack([random_mesh(6 + i, 1.0 + i)[0] for i in range(5)])
    triangles = np.concatenate([random_mesh(6, 4.0)[1], [[0, 1, 9999]]]).astype(np.int32)
    batch = rasterizer.rasterize_batch(vertices, triangles, 40, 36, threads=threads)
    assert batch.barycentric.shape == (5, 40, 36, 3)
    for i, mesh in enumerate(vertices):
        for expected, array in zip(rasterizer.rasterize(mesh, triangles, 40, 36), batch):
            np.testing.assert_array_equal(array[i], expected)


def test_an_empty_batch_is_allowed_and_errors_name_the_argument():
    _, triangles = random_mesh(1, 1.0)
    assert rasterizer.rasterize_batch(np.zeros((0, 450, 3)), triangles, 4, 5).depth.shape == (0, 4, 5)
    with pytest.raises(ValueError, match=r"vertices: expected \[B, N, 3\]"):
        rasterizer.rasterize_batch(np.zeros((450, 3)), triangles, 4, 5)
    with pytest.raises(ValueError, match="positive"):
        rasterizer.rasterize_batch(np.zeros((1, 450, 3)), triangles, 0, 5)
