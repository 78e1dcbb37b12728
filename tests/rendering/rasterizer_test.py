"""The rasteriser against a brute-force reference, and what it promises about odd input."""

import time

import numpy as np
import pytest

from twodal_jax.rendering import rasterizer, shading


def reference(vertices, triangles, height, width):
    """Every triangle against every pixel, float64, with inclusive edges."""
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


@pytest.mark.parametrize("spread", [0.3, 2.0, 30.0])
def test_same_triangle_and_depth_as_brute_force(spread):
    vertices, triangles = random_mesh(1, spread)
    expected_index, expected_depth = reference(vertices, triangles, 40, 36)
    fragments = rasterizer.rasterize(vertices, triangles, 40, 36)
    same = fragments.triangle_index == expected_index
    assert same.mean() >= 0.999
    covered = same & (expected_index >= 0)
    assert covered.any()
    np.testing.assert_allclose(fragments.depth[covered], expected_depth[covered], atol=1e-4, rtol=1e-5)


def test_barycentric_weights_rebuild_the_pixel_centres():
    vertices, triangles = random_mesh(2, 5.0)
    fragments = rasterizer.rasterize(vertices, triangles, 40, 36)
    points = shading.interpolate(vertices, triangles, fragments)
    inside = fragments.triangle_index >= 0
    rows, columns = np.nonzero(inside)
    np.testing.assert_allclose(points[inside][:, 0], columns, atol=1e-3)
    np.testing.assert_allclose(points[inside][:, 1], rows, atol=1e-3)
    np.testing.assert_allclose(points[inside][:, 2], fragments.depth[inside], atol=1e-3)


def test_winding_does_not_matter():
    vertices, triangles = random_mesh(3, 4.0)
    one = rasterizer.rasterize(vertices, triangles, 40, 40)
    other = rasterizer.rasterize(vertices, triangles[:, ::-1], 40, 40)
    assert (one.triangle_index == other.triangle_index).mean() >= 0.999


def test_larger_z_is_nearer():
    corners = [[-1, -1], [20, -1], [-1, 20]]
    vertices = np.array([[x, y, z] for z in (1.0, 2.0) for x, y in corners], np.float32)
    for triangles in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        fragments = rasterizer.rasterize(vertices, np.array(triangles), 8, 8)
        assert (fragments.depth == 2.0).all()


def test_bad_triangles_are_skipped_and_cost_the_others_nothing():
    vertices, triangles = random_mesh(4, 4.0)
    clean = rasterizer.rasterize(vertices, triangles, 40, 40)
    bad = np.array(
        [[np.nan, 5, 5], [5, np.nan, 5], [5, 5, np.nan], [np.inf, 5, 5], [5, 5, 99], [1e30, -1e30, 5]], np.float32
    )
    n = len(vertices)
    extra = np.array(
        [
            [n, n + 4, 0],
            [n + 1, n + 4, 0],
            [n + 2, n + 4, 0],
            [n + 3, n + 4, 0],
            [n + 4, n + 4, n + 4],
            [n + 4, 0, n + 4],
            [-1, 0, 1],
            [0, 1, n + 6],
        ],
        np.int32,
    )
    dirty = rasterizer.rasterize(np.concatenate([vertices, bad]), np.concatenate([triangles, extra]), 40, 40)
    np.testing.assert_array_equal(dirty.triangle_index, clean.triangle_index)
    np.testing.assert_array_equal(dirty.depth, clean.depth)


def test_a_mesh_wholly_outside_leaves_the_image_empty():
    vertices, triangles = random_mesh(5, 2.0)
    fragments = rasterizer.rasterize(vertices + np.float32(500), triangles, 20, 30)
    assert fragments.triangle_index.shape == (20, 30)
    assert (fragments.triangle_index == -1).all() and (fragments.barycentric == 0).all()
    assert np.isneginf(fragments.depth).all()


@pytest.mark.parametrize(
    "vertices, triangles, name",
    [(np.zeros((4, 2)), np.zeros((1, 3)), "vertices"), (np.zeros((4, 3)), np.zeros((3,)), "triangles")],
)
def test_a_wrong_shape_is_an_error_that_names_the_argument(vertices, triangles, name):
    with pytest.raises(ValueError, match=name):
        rasterizer.rasterize(vertices, triangles, 8, 8)


def sphere(size, rings=120):
    u, v = np.meshgrid(
        np.linspace(0, 2 * np.pi, rings, endpoint=False), np.linspace(0.02, np.pi - 0.02, rings), indexing="ij"
    )
    points = np.stack([np.sin(v) * np.sin(u), np.cos(v), np.sin(v) * np.cos(u)], -1).reshape(-1, 3)
    index = np.arange(rings * rings).reshape(rings, rings)
    right = np.roll(index, -1, axis=0)
    a, b, c, d = index[:, :-1], right[:, :-1], right[:, 1:], index[:, 1:]
    triangles = np.concatenate([np.stack([a, d, b], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    y_down = points * [1, -1, 1] * size * 0.4 + [size / 2, size / 2, 0]
    return points, y_down.astype(np.float32), triangles.astype(np.int32)


def test_the_near_half_of_a_sphere_is_visible():
    points, vertices, triangles = sphere(100)
    visible = rasterizer.visible_vertices(vertices, triangles, 100, 100)
    # Within two pixels of the outline depth falls too steeply for pixel centres to decide.
    assert visible[points[:, 2] > 0.3].all()
    assert not visible[points[:, 2] < -0.3].any()


def test_vertices_outside_the_image_are_not_visible():
    _, vertices, triangles = sphere(100)
    vertices[:, 0] += 50
    visible = rasterizer.visible_vertices(vertices, triangles, 100, 100)
    assert not visible[vertices[:, 0] > 100].any() and visible.any()


def test_normals_of_a_sphere_point_outwards():
    points, _, triangles = sphere(100)
    normals = shading.vertex_normals(points, triangles)
    inner = np.abs(points[:, 1]) < 0.98
    assert (np.sum(normals * points, axis=1)[inner] > 0.995).all()


def test_a_render_is_brightest_towards_the_light_and_keeps_the_background():
    _, vertices, triangles = sphere(60)
    light = shading.Light(direction=(-1.0, 1.0, 0.5), specular=0.0)
    ground = np.full((60, 60, 3), 0.5, np.float32)
    image, mask = shading.render(vertices, triangles, np.ones_like(vertices), 60, 60, light, ground, shadows=True)
    assert image[16, 16].mean() > 2 * image[44, 44].mean()
    np.testing.assert_allclose(image[mask == 0], 0.5, atol=1e-6)
    assert abs(mask.sum() - np.pi * 24**2) < 0.02 * np.pi * 24**2


@pytest.mark.slow
def test_a_face_sized_mesh_is_drawn_in_milliseconds():
    _, vertices, triangles = sphere(120, rings=230)
    rasterizer.rasterize(vertices, triangles, 120, 120)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        rasterizer.rasterize(vertices, triangles, 120, 120)
        times.append(time.perf_counter() - start)
    # About 1.5 ms on an idle core; the bar leaves room for a busy machine.
    assert min(times) < 0.006


def test_no_vertices_is_an_empty_image():
    fragments = rasterizer.rasterize(np.zeros((0, 3)), np.array([[0, 1, 2]]), 4, 4)
    assert (fragments.triangle_index == -1).all()


def batch_of_meshes(count, seed=6):
    triangles = random_mesh(seed, 4.0)[1]
    return np.stack([random_mesh(seed + i, 1.0 + i)[0] for i in range(count)]), triangles


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_a_batch_equals_its_meshes_one_by_one(threads):
    vertices, triangles = batch_of_meshes(5)
    triangles = np.concatenate([triangles, [[0, 1, 9999]]]).astype(np.int32)
    batch = rasterizer.rasterize_batch(vertices, triangles, 40, 36, threads=threads)
    assert batch.barycentric.shape == (5, 40, 36, 3)
    for i, mesh in enumerate(vertices):
        one = rasterizer.rasterize(mesh, triangles, 40, 36)
        for expected, array in zip(one, rasterizer.one_of_batch(batch, i)):
            np.testing.assert_array_equal(array, expected)


def test_a_batch_shows_what_brute_force_shows():
    vertices, triangles = batch_of_meshes(3)
    batch = rasterizer.rasterize_batch(vertices, triangles, 30, 40)
    for i, mesh in enumerate(vertices):
        expected_index, expected_depth = reference(mesh, triangles, 30, 40)
        same = batch.triangle_index[i] == expected_index
        assert same.mean() >= 0.999
        covered = same & (expected_index >= 0)
        np.testing.assert_allclose(batch.depth[i][covered], expected_depth[covered], atol=1e-4, rtol=1e-5)


def test_an_empty_batch_and_a_wrong_one():
    _, triangles = random_mesh(1, 1.0)
    assert rasterizer.rasterize_batch(np.zeros((0, 450, 3)), triangles, 4, 5).depth.shape == (0, 4, 5)
    with pytest.raises(ValueError, match=r"vertices: expected \[B, N, 3\]"):
        rasterizer.rasterize_batch(np.zeros((450, 3)), triangles, 4, 5)
    with pytest.raises(ValueError, match="positive"):
        rasterizer.rasterize_batch(np.zeros((1, 450, 3)), triangles, 0, 5)
