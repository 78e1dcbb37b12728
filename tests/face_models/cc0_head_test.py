"""Properties of the shipped CC0 head: mesh, landmarks, masks, face units."""

import numpy as np
import pytest

from twodal_jax.face_models import cc0_head, face_units, sampling
from twodal_jax.geometry.heatmap import MIRROR_68
from twodal_jax.rendering import rasterizer

ARKIT = 52
FLIP = np.array([[-1], [1], [1]], np.float32)


@pytest.fixture(scope="module")
def head():
    return cc0_head.load()


def landmarks_of(head, planes):
    return planes[:, head.model.landmark_indices].T


def activated(head, **activations):
    """Mean face [3, N] with some units."""
    vector = np.zeros(ARKIT, np.float32)
    for name, amount in activations.items():
        vector[face_units.INDEX[name]] = amount
    return head.model.mean + np.tensordot(vector, head.units, axes=1)


def visible_share(head, planes, *masks):
    """Square millimetres of the masked parts seen from the front."""
    seen = planes.T * [1000, -1000, 1000] + [150, 150, 0]
    index = rasterizer.rasterize(seen, head.model.triangles, 400, 300).triangle_index
    inner = sum(head.masks[name] for name in masks)[head.model.triangles].max(axis=1) > 0.5
    return inner[index[index >= 0]].sum()


def test_the_file_is_small_and_the_mesh_of_the_promised_size(head):
    assert cc0_head.FILE.stat().st_size <= 8e6
    assert 15_000 <= head.model.num_vertices <= 40_000
    assert head.uv.shape == (len(head.model.triangles), 3, 2)
    assert head.uv.min() >= 0 and head.uv.max() <= 1


def test_the_mean_is_exactly_symmetric_and_directions_are_even_or_odd(head):
    mean, basis = head.model.mean, head.model.basis
    np.testing.assert_array_equal(mean[:, head.mirror] * FLIP, mean)
    np.testing.assert_array_equal(head.mirror[head.mirror], np.arange(head.model.num_vertices))
    twins = basis[:, :, head.mirror] * FLIP
    size = np.abs(basis).max(axis=(1, 2))
    odd_or_even = np.minimum(np.abs(basis - twins).max(axis=(1, 2)), np.abs(basis + twins).max(axis=(1, 2)))
    assert (odd_or_even <= 1e-5 * size).all()


def test_the_mesh_is_watertight_but_for_the_neck(head):
    triangles = head.model.triangles
    directed = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64)
    codes = directed @ [head.model.num_vertices, 1]
    assert len(np.unique(codes)) == len(codes)  # no edge is used twice in one direction
    open_edges = directed[~np.isin(codes, directed[:, ::-1] @ [head.model.num_vertices, 1])]
    following = dict(open_edges.tolist())
    loop, start = [open_edges[0, 0]], open_edges[0, 0]
    while following[loop[-1]] != start:
        loop.append(following[loop[-1]])
    assert len(loop) == len(open_edges) > 40  # one loop
    chin = landmarks_of(head, head.model.mean)[8, 1]
    assert head.model.mean[1, loop].max() < chin


def test_triangles_face_outwards(head):
    corners = head.model.mean.T.astype(np.float64)[head.model.triangles]
    assert np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) > 0


def test_the_frame_is_metres_from_between_the_ears_at_the_pupils(head):
    mean = head.model.mean
    points = landmarks_of(head, mean)
    pupils = mean[:, head.masks["pupil"] > 0.9]
    assert abs(pupils[1].mean()) < 0.003 and pupils[2].mean() > 0.06
    assert 0.056 < 2 * np.abs(pupils[0]).mean() < 0.070
    assert abs(mean[2, head.masks["ears"] > 0.5].mean()) < 0.01
    assert 0.08 < points[45, 0] - points[36, 0] < 0.10


def test_landmarks_are_mirror_pairs_on_the_right_parts(head):
    mean, index = head.model.mean, head.model.landmark_indices
    points = landmarks_of(head, mean)
    np.testing.assert_array_equal(head.mirror[index], index[MIRROR_68])
    assert len(np.unique(index)) == 68
    assert points[30, 2] == points[:, 2].max()  # tip of the nose
    assert points[8, 1] == points[:, 1].min()  # chin
    assert (np.diff(points[:9, 1]) < 0).all() and (np.diff(points[:17, 0]) > 0).all()  # jaw
    for eye, landmarks in ((-1, range(36, 42)), (1, range(42, 48))):
        ball = mean[:, (head.masks["sclera"] + head.masks["iris"] + head.masks["pupil"] > 0.5) & (eye * mean[0] > 0)]
        distance = np.linalg.norm(points[landmarks, None] - ball.T, axis=2).min(axis=1)
        assert distance.max() < 0.008
    assert (head.masks["eyelids"][index[36:48]] > 0.3).all()
    assert head.masks["lips"][index[48:68]].mean() > 0.5
    brows = mean[:, head.masks["brows"] > 0.5].T
    assert np.linalg.norm(points[17:27, None] - brows, axis=2).min(axis=1).max() < 0.006
    noses = points[27:36]
    assert np.abs(noses[:, 0]).max() < 0.02 and (np.diff(points[27:31, 1]) < 0).all()


def test_masks_are_shares_and_symmetric(head):
    assert {"lips", "brows", "sclera", "iris", "pupil", "eyelids", "scalp", "teeth", "tongue"} <= head.masks.keys()
    for name, mask in head.masks.items():
        assert mask.shape == (head.model.num_vertices,) and mask.min() >= 0 and mask.max() > 0.9, name
        np.testing.assert_allclose(mask[head.mirror], mask, atol=1 / 255 + 1e-6, err_msg=name)
    assert head.masks["scalp"][head.model.landmark_indices].max() < 0.05


def test_the_mouth_is_closed_at_rest_and_lids_are_open(head):
    points = landmarks_of(head, head.model.mean)
    assert np.linalg.norm(points[62] - points[66]) < 0.004
    assert visible_share(head, head.model.mean, "teeth", "tongue") <= 2
    assert visible_share(head, head.model.mean, "sclera", "iris", "pupil") > 150


def test_no_teeth_show_on_random_people_at_rest(head):
    rng = np.random.default_rng(0)
    for _ in range(10):
        person = head.model.mean + np.tensordot(sampling.sample_shape(rng), head.model.basis[:40], axes=1)
        assert visible_share(head, person, "teeth", "tongue") <= 12


def test_units_have_arkits_names_and_do_what_they_say(head):
    assert len(head.unit_names) == ARKIT == len(set(head.unit_names)) == len(head.units)
    assert sorted(head.unit_names) == list(head.unit_names)
    rest = landmarks_of(head, head.model.mean)
    opened = landmarks_of(head, activated(head, jawOpen=1))
    assert rest[8, 1] - opened[8, 1] > 0.015
    blinking = landmarks_of(head, activated(head, eyeBlinkLeft=1))
    # The person's left eye is at the right of the picture.
    assert (blinking[43] - blinking[47])[1] < 0.25 * (rest[43] - rest[47])[1]
    np.testing.assert_allclose(blinking[36:42], rest[36:42], atol=2e-4)
    smiling = landmarks_of(head, activated(head, mouthSmileLeft=1, mouthSmileRight=1))
    assert smiling[54, 1] > rest[54, 1] + 0.004 and smiling[54, 0] > rest[54, 0] + 0.002


def test_units_of_left_and_right_are_mirror_images(head):
    size = np.abs(head.units).max(axis=(1, 2))
    twins = head.units[face_units.MIRROR][:, :, head.mirror] * FLIP
    assert (np.abs(twins - head.units).max(axis=(1, 2)) <= 1e-4 * size + 1e-7).all()
    np.testing.assert_array_equal(face_units.MIRROR[face_units.MIRROR], np.arange(ARKIT))


def test_expression_directions_come_near_to_common_units(head):
    basis = head.model.basis[40:]
    for name, most in (("jawOpen", 0.15), ("mouthSmileLeft", 0.5)):
        unit = head.units[face_units.INDEX[name]]
        rest = unit - np.tensordot(head.unit_coefficients[face_units.INDEX[name]], basis, axes=1)
        assert np.linalg.norm(rest) < most * np.linalg.norm(unit), name


def test_statistics_of_random_expressions_are_those_stored(head):
    activations = face_units.sample_activations(np.random.default_rng(7), 4000)
    assert activations.min() >= 0 and activations.max() <= 1
    coefficients = cc0_head.expression_coefficients(head, activations)
    np.testing.assert_allclose(coefficients.std(axis=0), head.expression_std, rtol=0.1)
    np.testing.assert_allclose(coefficients.mean(axis=0), head.expression_mean, atol=0.08)
    look = activations[:, [face_units.INDEX[name] for name in ("eyeLookInLeft", "eyeLookOutRight")]]
    np.testing.assert_array_equal(look[:, 0], look[:, 1])
    close, jaw = (activations[:, face_units.INDEX[name]] for name in ("mouthClose", "jawOpen"))
    assert (close <= jaw).all()


def test_the_packed_head_unpacks_to_itself(head):
    again = cc0_head.unpack(cc0_head.FILE.read_bytes())
    np.testing.assert_array_equal(again.model.mean, head.model.mean)
    np.testing.assert_array_equal(again.units, head.units)
