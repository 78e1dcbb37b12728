"""ICP recovers a known rigid motion from any start, under noise, outliers and missing parts."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from twodal_jax.evaluation import icp
from twodal_jax.face_models import cc0_head
from twodal_jax.rendering import shading


@pytest.fixture(scope="module")
def face():
    """(points [N, 3] about 100 wide, unit normals [N, 3]) of the built-in face without its inside."""
    head = cc0_head.load()
    model, inside = head.model, ("mouth_inside", "teeth", "tongue", "sclera", "iris", "pupil")
    points = np.asarray(model.mean, np.float64).T
    points = (points - points.mean(axis=0)) * (100.0 / np.ptp(points[:, 0]))
    normals = shading.vertex_normals(points.astype(np.float32), np.asarray(model.triangles))
    skin = sum(head.masks[name] for name in inside) < 0.5
    return points[skin], np.asarray(normals, np.float64)[skin]


def random_motion(degrees, seed):
    """A rotation by `degrees` about a random axis, and a random translation."""
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal(3)
    rotation = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    return rotation, rng.uniform(-8, 8, 3)


def misalignment(face, source_motion, found):
    """Mean distance, in the face's unit, of the aligned points from their true positions."""
    rotation, shift = source_motion
    return np.linalg.norm(found(face[0] @ rotation.T + shift) - face[0], axis=1).mean()


@pytest.mark.parametrize("degrees", [5, 15, 30])
@pytest.mark.parametrize("seed", range(4))
def test_a_known_motion_is_inverted(face, degrees, seed):
    rotation, shift = motion = random_motion(degrees, seed)
    found = icp.align(face[0] @ rotation.T + shift, icp.Target(*face))
    assert found.converged and misalignment(face, motion, found) < 1e-3


@pytest.mark.parametrize("degrees", [10, 30])
@pytest.mark.parametrize("seed", range(3))
def test_noise_outliers_and_missing_parts_have_little_influence(face, degrees, seed):
    rng = np.random.default_rng(seed)
    rotation, shift = motion = random_motion(degrees, seed + 10)
    source = face[0] + 0.2 * rng.standard_normal(face[0].shape)
    outliers = rng.uniform(size=len(source)) < 0.05
    source[outliers] += rng.uniform(-25, 25, (outliers.sum(), 3))
    source = source[face[0][:, 1] > np.quantile(face[0][:, 1], 0.15)] @ rotation.T + shift
    kept = face[0][:, 0] < np.quantile(face[0][:, 0], 0.9)
    target = icp.Target(face[0][kept], face[1][kept])
    assert misalignment(face, motion, icp.align(source, target)) < 0.05


def test_initial_rotations_up_to_30_degrees_give_the_same_result(face):
    """For two different faces, which no motion aligns exactly."""
    rng = np.random.default_rng(0)
    other = face[0] * [1.04, 0.97, 1.05] + 0.3 * np.sin(face[0] / 9)
    target = icp.Target(*face)
    errors, places = [], []
    for seed, degrees in enumerate(rng.uniform(0, 30, 8)):
        rotation, shift = random_motion(degrees, seed + 20)
        source = other @ rotation.T + shift
        places.append(icp.align(source, target)(source))
        errors.append(icp.reconstruction_error(source, target, 60.0))
    assert np.ptp(errors) < 0.01 * np.mean(errors)
    spread = np.linalg.norm(np.asarray(places) - np.mean(places, axis=0), axis=-1)
    assert spread.max() < 0.1


def test_the_result_equals_plain_icp_with_all_points(face):
    """400 steps without acceleration and with a full nearest-neighbour search."""
    other = face[0] * [1.04, 0.97, 1.05] + 0.3 * np.sin(face[0] / 9)
    target = icp.Target(*face)
    rotation, shift = random_motion(10, 4)
    source = moved = other @ rotation.T + shift
    for step in range(400):
        distance, index = target.tree.query(moved)
        turn, move = icp.robust_step(moved, target, distance, index, to_planes=step < 20)
        moved = moved @ turn.T + move
    plain = 100.0 * target.tree.query(moved)[0].mean() / 60.0
    assert icp.reconstruction_error(source, target, 60.0) == pytest.approx(plain, rel=2e-3)
    aligned = icp.align(source, target, sample=len(source))(source)
    assert np.linalg.norm(aligned - moved, axis=1).mean() < 0.03


def test_cached_neighbours_are_the_nearest_after_steps_of_any_size(face):
    """Also on a grid, where several points are equally near; there the distances are compared."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 3), axis=-1).reshape(-1, 3)
    for points, scale in ((face[0], 1.0), (grid, 0.5)):
        target = icp.Target(points, np.zeros_like(points))
        moved = points[rng.choice(len(points), 500)] + rng.normal(0, scale, (500, 3))
        nearest = icp._NearestCache(target, len(moved))
        for size in (0, 0, 1e-4, 1e-3, 1e-2, 1e-2, 0.1, 0.1, 1.0, 10.0, 1e-3):
            moved = moved + rng.normal(0, size, moved.shape)
            distance, index = nearest(moved)
            assert distance == pytest.approx(target.tree.query(moved)[0], rel=1e-9, abs=1e-12)
            assert distance == pytest.approx(np.linalg.norm(points[index] - moved, axis=1), rel=1e-9, abs=1e-12)


def test_acceleration_converges_in_20_steps_instead_of_700():
    """For a linear step whose plain repetition needs about 700 steps."""
    shrink = np.diag([0.98, 0.9, 0.5, 0.97, -0.3, 0.2])
    fixed = np.arange(1.0, 7.0)
    place, accelerated = np.zeros(6), icp._AndersonAcceleration()
    for _ in range(20):
        place = accelerated(place, fixed + shrink @ (place - fixed))
    assert place == pytest.approx(fixed, abs=1e-5)


@pytest.mark.parametrize("count", [3, 4, 50, 1000, 4000, 5000])
def test_few_points_are_enough(face, count):
    rng = np.random.default_rng(count)
    rotation, shift = random_motion(2, 1)
    points = face[0][rng.choice(len(face[0]), count, replace=False)]
    found = icp.align(points @ rotation.T + 0.1 * shift, icp.Target(points, np.tile([0.0, 0.0, 1.0], (count, 1))))
    assert np.isfinite(found.rotation).all() and np.isfinite(found.translation).all()


def test_identical_points_stay_in_place():
    count = 20
    same = icp.align(np.ones((count, 3)), icp.Target(np.ones((count, 3)), np.tile([0.0, 0.0, 1.0], (count, 1))))
    assert same(np.ones((count, 3))) == pytest.approx(np.ones((count, 3)))


def test_the_result_agrees_with_trimesh(face):
    trimesh = pytest.importorskip("trimesh")
    rng = np.random.default_rng(1)
    points = face[0][rng.choice(len(face[0]), 4000, replace=False)]
    rotation, shift = motion = random_motion(4, 3)
    source = points @ rotation.T + shift + 0.05 * rng.standard_normal(points.shape)
    matrix, *_ = trimesh.registration.icp(source, face[0], threshold=1e-9, max_iterations=300)
    theirs = icp.RigidMotion(matrix[:3, :3], matrix[:3, 3])
    ours = icp.align(source, icp.Target(*face))
    apart = np.linalg.norm(theirs(source) - ours(source), axis=1)
    assert apart.mean() < 0.1
    assert misalignment(face, motion, ours) <= misalignment(face, motion, theirs) + 0.02


def test_normals_are_estimated_when_none_are_given(face):
    target = icp.Target(face[0])
    cosine = np.abs(np.einsum("ni,ni->n", target.normals, face[1]))
    assert np.median(cosine) > 0.98
    rotation, shift = motion = random_motion(20, 5)
    found = icp.align(face[0] @ rotation.T + shift, target)
    assert misalignment(face, motion, found) < 0.01


def test_a_shift_along_the_normals_is_the_error():
    """A plane 60 wide, and the same with its points moved off it by 1, randomly up or down."""
    rng = np.random.default_rng(2)
    plane = np.concatenate([rng.uniform(-30, 30, (20000, 2)), np.zeros((20000, 1))], axis=1)
    bumps = plane.copy()
    bumps[:, 2] = np.where(rng.uniform(size=len(bumps)) < 0.5, 1.0, -1.0)
    target = icp.Target(plane, np.repeat([[0.0, 0.0, 1.0]], len(plane), axis=0))
    error = icp.reconstruction_error(bumps, target, interocular=50.0)
    # The nearest point is not exactly below, so the distance is slightly larger than 1.
    assert 1.99 <= error < 2.2


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((2, 3)), np.full((5, 3), np.nan)])
def test_invalid_point_clouds_are_errors(face, points):
    with pytest.raises(ValueError, match="source"):
        icp.align(points, icp.Target(*face))
    with pytest.raises(ValueError, match="target"):
        icp.Target(points)
