"""Built-in face: a valid morphable model whose features are in the right places."""

import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.face_models import procedural
from twodal_jax.face_models.procedural import landmarks, sampling
from twodal_jax.geometry import coefficients, morphable_model, projection


@pytest.fixture(scope="module")
def face():
    return procedural.build_face_model()


def points(face, **named):
    """The 68 landmarks, [68, 3] millimetres, with the given coefficients in units of their scale."""
    weights = np.zeros(50)
    for name, value in named.items():
        if name in face.shape_names:
            k = face.shape_names.index(name)
            weights[k] = value * face.shape_std[k]
        else:
            k = face.expression_names.index(name)
            weights[40 + k] = value * face.expression_scale[k]
    model = face.model
    return (model.landmark_mean + np.tensordot(weights, model.landmark_basis, axes=1)).T


def test_arrays_have_the_sizes_and_types_of_a_morphable_model(face):
    model = face.model
    assert 20_000 <= model.num_vertices <= 50_000
    assert model.basis.shape == (50, 3, model.num_vertices) and model.basis.dtype == np.float32
    assert model.has_whitening and (model.alpha_std > 0).all()
    assert len(procedural.SHAPE_NAMES) == len(set(procedural.SHAPE_NAMES)) == 40
    assert len(procedural.EXPRESSION_NAMES) == len(set(procedural.EXPRESSION_NAMES)) == 10


def test_directions_are_orthogonal_over_the_vertices(face):
    flat = face.model.basis.reshape(50, -1).astype(np.float64)
    gram = flat @ flat.T / face.model.num_vertices
    np.testing.assert_allclose(gram[:40, :40], np.eye(40), atol=1e-5)
    np.testing.assert_allclose(gram[40:, 40:], np.eye(10), atol=1e-5)


def test_standard_deviations_are_in_descending_order(face):
    for scale in (face.shape_std, face.expression_scale):
        assert (np.diff(scale) <= 0).all() and scale[-1] > 0


def test_building_is_deterministic(face):
    again = procedural.build_face_model.__wrapped__()
    np.testing.assert_array_equal(again.model.basis, face.model.basis)
    np.testing.assert_array_equal(again.model.alpha_std, face.model.alpha_std)


def triangle_normals(vertices, triangles):
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def test_no_triangle_is_degenerate_and_all_vertices_are_used(face):
    vertices, triangles = face.model.mean.T.astype(np.float64), face.model.triangles
    assert np.linalg.norm(triangle_normals(vertices, triangles), axis=1).min() > 0.01
    assert len(np.unique(triangles)) == face.model.num_vertices


def test_the_head_is_closed_except_for_the_neck(face):
    triangles = face.model.triangles
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges), "two triangles share a directed edge: winding differs"
    border = [edge for edge in directed if edge[::-1] not in directed]
    assert border, "the neck is open"
    assert face.model.mean[1, np.unique(border)].max() < -180


def test_triangles_wind_counter_clockwise_seen_from_outside(face):
    vertices, triangles = face.model.mean.T.astype(np.float64), face.model.triangles
    normals = triangle_normals(vertices, triangles)
    # Divergence theorem: the volume enclosed is that of a head and neck, and positive.
    litres = np.sum(normals * vertices[triangles].mean(axis=1)) / 6 / 1e6
    assert 3.0 < litres < 8.0
    skin = face.regions["mouth_inside"][triangles].max(axis=1) == 0
    forehead = face.regions["forehead"][triangles].min(axis=1) > 0.5
    assert (normals[forehead & skin][:, 2] > 0).all()


def test_shapes_and_expressions_do_not_invert_triangles_of_the_skin(face):
    model, rng = face.model, np.random.default_rng(0)
    neutral = triangle_normals(model.mean.T.astype(np.float64), model.triangles)
    hidden = face.regions["mouth_inside"] + face.regions["eye"] + face.regions["lip_line"]
    skin = hidden[model.triangles].max(axis=1) < 0.01
    for _ in range(10):
        weights = np.concatenate(
            [sampling.sample_shape(rng, face.shape_std), sampling.sample_expression(rng, face.expression_scale)]
        )
        vertices = (model.mean + np.tensordot(weights, model.basis, axes=1)).T
        turned = triangle_normals(vertices, model.triangles)
        cosine = np.sum(turned * neutral, axis=1) / (np.linalg.norm(turned, axis=1) * np.linalg.norm(neutral, axis=1))
        assert (cosine[skin] < -0.2).mean() < 1e-3


def test_the_head_is_symmetric(face):
    mean = face.model.landmark_mean.T
    mirrored = mean[landmarks.MIRROR_68] * [-1, 1, 1]
    np.testing.assert_allclose(mean, mirrored, atol=1e-3)
    vertices = np.round(face.model.mean.T, 2)
    corners = {tuple(sorted(map(tuple, t))) for t in vertices[face.model.triangles].tolist()}
    flipped = (vertices * [-1, 1, 1])[face.model.triangles].tolist()
    same = [tuple(sorted(map(tuple, t))) in corners for t in flipped]
    assert np.mean(same) > 0.97, "all but rounding"
    np.testing.assert_array_equal(landmarks.MIRROR_68[landmarks.MIRROR_68], np.arange(68))


def test_landmarks_have_the_arrangement_of_ibug(face):
    x, y, z = face.model.landmark_mean
    assert len(set(face.model.landmark_indices.tolist())) == 68
    assert x[0] < x[36] < x[39] < x[42] < x[45] < x[16], "left to right as seen in the image"
    assert x[48] < x[33] < x[54] and x[17] < x[21] < x[22] < x[26]
    assert (np.diff(x[:17]) > 0).all() and np.argmin(y[:17]) == 8 and abs(x[8]) < 1e-3
    assert y[19] > y[37] > y[36] > y[41] > y[31] > y[51] > y[57] > y[8], "from brow to chin"
    assert y[27] > y[28] > y[29] > y[30] > y[33] and np.argmax(z) == 30, "down the nose to its tip"
    assert (y[[37, 38, 43, 44]] > y[[41, 40, 47, 46]]).all(), "upper lids above lower lids"
    assert y[51] > y[62] > y[66] > y[57], "lips from above to below"
    assert x[31] < x[32] < x[33] < x[34] < x[35] and (y[[49, 53]] > y[[59, 55]]).all()


def test_proportions_are_human(face):
    p = face.model.landmark_mean.T
    eyes = np.linalg.norm(p[45] - p[36])
    assert 80 < eyes < 105, "outer corners of the eyes, millimetres"
    assert 0.45 < np.linalg.norm(p[54] - p[48]) / eyes < 0.65
    assert 105 < p[27, 1] - p[8, 1] < 130, "root of the nose to the chin"


@pytest.mark.parametrize(
    "name, measure",
    [
        ("face_height", lambda p: p[27, 1] - p[8, 1]),
        ("face_width", lambda p: p[16, 0] - p[0, 0]),
        ("nose_length", lambda p: p[27, 1] - p[33, 1]),
        ("mouth_width", lambda p: p[54, 0] - p[48, 0]),
        ("eye_distance", lambda p: p[42, 0] - p[39, 0]),
        ("jaw_width", lambda p: p[12, 0] - p[4, 0]),
        ("nose_width", lambda p: p[35, 0] - p[31, 0]),
        ("brow_height", lambda p: p[19, 1] - p[37, 1]),
        ("eye_size", lambda p: p[37, 1] - p[41, 1]),
        ("chin_forward", lambda p: p[8, 2]),
        ("lip_protrusion", lambda p: p[51, 2]),
        ("jaw_shift", lambda p: p[8, 0]),
        ("mouth_open", lambda p: p[62, 1] - p[66, 1]),
        ("smile", lambda p: p[54, 0] - p[48, 0]),
        ("smile", lambda p: p[48, 1]),
        ("sad", lambda p: -p[48, 1]),
        ("pucker", lambda p: p[51, 2]),
        ("brows_up", lambda p: p[19, 1]),
        ("brows_down", lambda p: -p[21, 1]),
        ("eyes_closed", lambda p: p[41, 1] - p[37, 1]),
        ("mouth_sideways", lambda p: p[51, 0]),
    ],
)
def test_a_direction_has_the_effect_that_it_is_named_after(face, name, measure):
    assert measure(points(face, **{name: 1.0})) > measure(points(face)) + 0.3


def test_eyes_close_and_the_mouth_opens_by_realistic_distances(face):
    closed = points(face, eyes_closed=1.0)
    assert abs(closed[37, 1] - closed[41, 1]) < 2.0 < points(face)[37, 1] - points(face)[41, 1]
    open_mouth = points(face, mouth_open=1.0)
    assert 15 < open_mouth[62, 1] - open_mouth[66, 1] < 50


def samples(face, seed, count, **options):
    rng, model = np.random.default_rng(seed), face.model
    arguments = (model.landmark_mean, model.landmark_basis, face.shape_std, face.expression_scale)
    return np.stack([procedural.sample_alpha(rng, *arguments, **options) for _ in range(count)])


def test_the_whitening_of_the_model_is_that_of_samples(face):
    whitened = np.asarray(coefficients.whiten(samples(face, 5, 1500), face.model.alpha_mean, face.model.alpha_std))
    assert np.abs(whitened.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(whitened.std(axis=0), 1.0, atol=0.2)


def test_sampled_poses_cover_all_yaw_bins_and_keep_the_face_in_the_crop(face):
    alphas = samples(face, 6, 300, jitter=0.0)
    pose = coefficients.decompose_pose(jnp.asarray(alphas[:, :12].reshape(-1, 3, 4)))
    pitch, yaw, roll = np.degrees(np.asarray(pose.euler_angles)).T
    # Only poses far from a profile, where pitch and roll are ambiguous.
    clear = np.abs(yaw) < 80
    assert np.abs(pitch[clear]).max() < 25.5 and np.abs(roll[clear]).max() < 25.5
    shares = np.histogram(np.abs(yaw), [0, 30, 60, 90.1])[0] / len(yaw)
    assert (shares > 0.2).all()
    landmarks_crop = projection.landmarks_crop(face.model, jnp.asarray(alphas))
    boxes = np.asarray(projection.roi_box_from_landmarks(landmarks_crop))
    np.testing.assert_allclose(boxes, np.tile([0, 0, 120, 120], (300, 1)), atol=2e-3)


def test_rotation_equals_that_of_coefficients():
    angles = np.array([0.3, -0.7, 0.2])
    expected = np.asarray(coefficients.rotation_from_euler(jnp.asarray(angles)))
    np.testing.assert_allclose(sampling.rotation(*angles), expected, atol=1e-6)


def test_features_have_different_colours(face):
    rng = np.random.default_rng(1)
    for _ in range(5):
        look = procedural.sample_look(rng)
        colours, gloss = procedural.vertex_colours(face, look)
        assert colours.shape == (face.model.num_vertices, 3) and gloss.shape == (len(colours), 1)
        assert colours.min() >= 0 and colours.max() <= 1 and np.isfinite(colours).all()
        cheek = colours[face.regions["cheeks"] > 0.8].mean(axis=0)
        white = (face.regions["eye"] > 0.99) & (face.regions["iris"] == 0)
        assert colours[face.regions["pupil"] > 0.99].mean() < 0.15
        assert np.median(colours[white], axis=0).mean() > cheek.mean() - 0.15


def test_vertices_follow_the_linear_model(face):
    alpha = np.zeros(62, np.float32)
    alpha[12:] = np.random.default_rng(2).normal(size=50)
    expected = face.model.mean + np.tensordot(alpha[12:], face.model.basis, axes=1)
    got = np.asarray(morphable_model.vertices_model(face.model, jnp.asarray(alpha)))
    np.testing.assert_allclose(got, expected.T, atol=1e-3)
