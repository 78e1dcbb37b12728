"""Animatable faces: morph targets and tracks in GLBs as other programs play them, and one shape for one person."""

import functools
import json

import cv2
import helpers_gltf
import helpers_model
import numpy as np
import pytest
import trimesh

from twodal_jax.detection.types import Face, FaceBox, Pose
from twodal_jax.export import frames
from twodal_jax.face_models import cc0_head, face_units
from twodal_jax.geometry import coefficients, projection
from twodal_jax.reconstruction import animatable, film, photos
from twodal_jax.reconstruction.scene import Surface
from twodal_jax.reconstruction.tracker import AlphaLog, TrackedFace

HEIGHT = 480
TIMES = np.array([0.0, 0.125, 0.25, 0.75, 1.0])  # varying, as a phone's
VERTICES = list(range(0, 15000, 500))
PIXELS = 600.0  # of a metre in the 120-pixel crop


@functools.cache
def head():
    return cc0_head.load()


@functools.cache
def surface():
    found = head()
    std = np.concatenate([np.ones(52, np.float32), found.expression_std])
    return Surface(found.model.with_whitening(np.zeros(62), std))


def smile(amounts) -> np.ndarray:
    """Expression coefficients [F, 10] of a smile."""
    activation = np.zeros((len(amounts), 52))
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        activation[:, face_units.INDEX[name]] = amounts
    return cc0_head.expression_coefficients(head(), activation)


def smiling_film(shape_seed=0, jitter=0.0):
    """Raw alpha [5, 62] and boxes [5, 4]: a head turns and starts to smile."""
    rng, count = np.random.default_rng(shape_seed), len(TIMES)
    angles = np.stack([np.full(count, 0.1), np.linspace(-0.5, 0.5, count), np.linspace(0, 0.2, count)], axis=1)
    rotation = np.asarray(coefficients.rotation_from_euler(angles))
    place = np.linspace([60, 55, 0], [66, 70, 4], count)[..., None]
    pose = np.concatenate([PIXELS * np.linspace(1, 1.1, count)[:, None, None] * rotation, place], axis=2)
    shape = np.tile(rng.normal(0, 0.7, 40), (count, 1)) + jitter * rng.normal(size=(count, 40))
    alpha = np.concatenate([pose.reshape(count, 12), shape, smile(np.linspace(0, 1, count))], axis=1)
    boxes = np.float32([100, 150, 340, 390]) + np.arange(count, dtype=np.float32)[:, None] * 10
    return alpha.astype(np.float32), boxes


def log_of(alphas, boxes, face_id=0) -> AlphaLog:
    log = AlphaLog()
    for n, (alpha, box) in enumerate(zip(alphas, boxes)):
        log.add(n, face_id, Face(alpha, box, None, None, Pose(0, 0, 0), 0.9))
    return log


def write_film(path, alpha, boxes, frame="image"):
    film.write_glb(
        path,
        log_of(alpha, boxes).columns(),
        TIMES,
        film.TextureViews(),
        surface(),
        frame=frame,
        image_height=HEIGHT,
        texture_size=64,
    )
    return path


def projected(alpha, boxes) -> np.ndarray:
    """[F, N, 3]: the vertices in the exported frame "image", pixels, by the projection."""
    points = projection.crop_to_image(projection.vertices_crop(surface().model, alpha), boxes)
    return frames.to_export_frame(np.asarray(points), "image", image_height=HEIGHT)


def test_trimesh_reads_a_face_in_metres_and_equal_times_are_one_frame(tmp_path):
    alpha, boxes = smiling_film()
    path = tmp_path / "film.glb"
    columns, times = log_of(alpha, boxes).columns(), np.array([0, 0.5, 0.5, 1, 1])
    views = film.TextureViews()
    film.write_glb(path, columns, times, views, surface(), frame="image", image_height=HEIGHT, texture_size=64)
    read = trimesh.load(path)
    assert (np.ptp(read.bounds, axis=0) < 0.5).all() and (np.ptp(read.bounds, axis=0) > 0.1).all()
    (node,) = read.graph.nodes_geometry
    expected = projected(alpha[:1], boxes[:1])[0] * animatable.metres_per_pixel(alpha, boxes, surface())
    matrix, name = read.graph[node]
    found = trimesh.transform_points(read.geometry[name].vertices, matrix)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)
    tree = json.loads(path.read_bytes()[20 : 20 + int.from_bytes(path.read_bytes()[12:16], "little")])
    assert tree["accessors"][tree["animations"][0]["samplers"][0]["input"]]["count"] == 3


PLAYERS = {"three.js": helpers_gltf.played_by_three, "Blender": helpers_gltf.played_by_blender}


@pytest.mark.parametrize("player", PLAYERS)
def test_a_film_plays_in_other_programs_in_metres(tmp_path, player):
    alpha, boxes = smiling_film()
    path = write_film(tmp_path / "film.glb", alpha, boxes)
    (found,) = PLAYERS[player](path, TIMES, VERTICES).values()
    assert tuple(found["names"]) == face_units.UNIT_NAMES
    points = np.array(found["points"])
    metres = animatable.metres_per_pixel(alpha, boxes, surface())
    assert metres == pytest.approx(1 / (PIXELS * 1.05 * 2), rel=1e-4)  # boxes of 240 pixels for 120
    expected = projected(alpha, boxes)[:, VERTICES] * metres
    # The units miss a part of the expression; the smile itself moves the mouth by a centimetre.
    assert np.abs(points - expected).max() < 1.5e-3
    assert np.abs(points[0] - expected[0]).max() < 1e-5  # at rest
    assert np.ptp(points[0], axis=0).max() < 0.4


def test_the_tracks_name_the_smile(tmp_path):
    alpha, boxes = smiling_film()
    found = helpers_gltf.played_by_three(write_film(tmp_path / "film.glb", alpha[::-1], boxes), [0.0], [0])["face_0"]
    weights = dict(zip(found["names"], found["weights"]))
    assert sorted(weights, key=weights.get)[-2:] in (
        ["mouthSmileLeft", "mouthSmileRight"],
        ["mouthSmileRight", "mouthSmileLeft"],
    )
    assert weights["mouthSmileLeft"] > 0.7 and min(weights.values()) >= 0 and max(weights.values()) <= 1


def test_films_and_faces_pass_the_khronos_validator(tmp_path):
    alpha, boxes = smiling_film()
    other, _ = smiling_film(shape_seed=1)
    paths = [write_film(tmp_path / f"{frame}.glb", alpha, boxes, frame) for frame in frames.FRAMES]
    columns = {
        name: np.concatenate(
            [log_of(rows, boxes, number).columns()[name] for number, rows in enumerate((alpha, other))]
        )
        for name in log_of(alpha, boxes).columns()
    }
    image = helpers_model.smooth_images(np.random.default_rng(0), 1, HEIGHT)[0]
    views, vertices = film.TextureViews(), np.asarray(projected(alpha, boxes)[2])
    vertices = vertices * [1, -1, 1] + [-0.5, HEIGHT - 0.5, 0]
    marks = vertices[surface().landmark_indices]
    views.see(image, TrackedFace(1, Face(alpha[2], boxes[2], marks, np.float32(vertices), Pose(0, 0, 0), 0.9)))
    paths.append(tmp_path / "two.glb")
    film.write_glb(paths[-1], columns, TIMES, views, surface(), frame="image", image_height=HEIGHT, texture_size=64)
    for path, issues in helpers_gltf.issues(helpers_gltf.node_modules(), paths).items():
        assert issues["numErrors"] == issues["numWarnings"] == 0, f"{path}: {issues['messages'][:3]}"
    # Triangles, texture coordinates and targets are stored once.
    assert paths[2].stat().st_size < paths[0].stat().st_size + 1.2e6
    film.write_glb(
        paths[2], AlphaLog().columns(), TIMES, views, surface(), frame="image", image_height=HEIGHT, texture_size=64
    )
    assert not paths[2].exists()


@pytest.mark.parametrize("frame", frames.FRAMES)
def test_another_models_face_is_its_reconstruction_exactly(frame):
    """Also where the regressed pose is no exact rotation."""
    model = helpers_model.tiny_model()
    alpha = helpers_model.random_alpha(np.random.default_rng(0), 1)
    alpha[:, :12] += np.random.default_rng(1).normal(0, 0.5, 12)
    box = np.float32([[30, 40, 190, 200]])
    mesh = animatable.glb_mesh("a", alpha, box, Surface(model), frame, HEIGHT)
    posed = mesh.vertices + np.tensordot(mesh.motion.weights[0], mesh.targets, axes=1)
    posed = mesh.motion.scale[0] * posed @ mesh.motion.rotation[0].T + mesh.motion.translation[0]
    points = helpers_model.project_float64(model.mean, model.basis, alpha[0])
    expected = np.asarray(projection.crop_to_image(points, box[0])) * [1, -1, 1] + [0.5, HEIGHT - 0.5, 0]
    if frame == "model":
        shape = np.asarray(model.mean) + np.tensordot(alpha[0, 12:], np.asarray(model.basis), axes=1)
        expected = shape.T * (Surface(model).unit or 1)
    np.testing.assert_allclose(posed[: len(expected)], expected, atol=2e-3)
    assert mesh.target_names[3] == "expression_3" and len(mesh.target_names) == 10


def test_one_person_has_one_shape_and_keeps_its_places():
    truth, boxes = smiling_film()
    noisy, _ = smiling_film(jitter=0.5)
    columns = log_of(noisy, boxes).columns()
    shared = film.with_shared_shapes(surface().model, columns)["alpha"]
    assert np.ptp(shared[:, 12:52], axis=0).max() == 0
    np.testing.assert_allclose(shared[0, 12:52], noisy[:, 12:52].mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(shared[:, 52:], noisy[:, 52:])
    error = [np.linalg.norm(rows[:, 12:52] - truth[:, 12:52], axis=1).mean() for rows in (noisy, shared)]
    assert error[1] < 0.6 * error[0]
    marks = [np.asarray(projection.landmarks_crop(surface().model, rows)) for rows in (noisy, shared)]
    plain = noisy.copy()
    plain[:, 12:52] = shared[:, 12:52]
    marks.append(np.asarray(projection.landmarks_crop(surface().model, plain)))
    fitted, unfitted = (np.sqrt(np.square(found - marks[0]).sum(-1).mean()) for found in marks[1:])
    assert fitted < unfitted, "the pose is fitted to the new shape"
    running = film.RunningShape(surface().model)
    faces = [Face(alpha, box, None, None, Pose(0, 0, 0), 0.9) for alpha, box in zip(noisy, boxes)]
    last = [running(TrackedFace(0, face)).face.alpha for face in faces][-1]
    np.testing.assert_allclose(last, shared[-1], rtol=1e-4, atol=1e-4)


class FakeModel:
    """A fake model that reconstructs a random face for each given box."""

    morphable_model = helpers_model.tiny_model()

    def __init__(self):
        self.detector, self._rng, self.shapes = self, np.random.default_rng(0), []

    def detect(self, image):
        size = len(image)
        boxes = [[0, 0, size, size], [0, 0, 20, 20]][: 1 + (size > 100)]
        return [] if size < 50 else [FaceBox(np.float32(box)) for box in boxes]

    def reconstruct_batch(self, images, boxes, passes, min_confidence):
        return [[self._face(box) for box in found] for found in boxes]

    def _face(self, box):
        alpha = helpers_model.random_alpha(self._rng, 1)[0]
        self.shapes.append(alpha[12:52])
        return self.face_of(alpha, box.roi_box, 0.5)

    def face_of(self, alpha, roi_box, confidence):
        points = projection.crop_to_image(projection.landmarks_crop(self.morphable_model, alpha), roi_box)
        return Face(alpha, roi_box, np.asarray(points), None, Pose(0, 0, 0), confidence)


def test_photos_of_one_person_share_the_shape_of_the_largest_faces(tmp_path):
    for name, size in (("a", 80), ("b", 160), ("none", 40)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((size, size, 3), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    found = [photos.Photo(tmp_path / f"{name}.png", name) for name in ("a", "text", "none", "b")]
    model, outcome, steps = FakeModel(), photos.Outcome(), []
    settings = photos.PhotoSettings(tmp_path / "out", ("json",))
    photos.reconstruct_same_person(found, model, Surface(model.morphable_model), settings, outcome, steps.append)
    assert (outcome.faces, outcome.done, outcome.left_out, len(outcome.failures), sum(steps)) == (2, 4, 1, 2, 4)
    faces = [json.loads((tmp_path / "out" / name / "faces.json").read_text())["faces"] for name in "ab"]
    first, second = (np.array(face["alpha"]) for (face,) in faces)
    np.testing.assert_array_equal(first[12:52], second[12:52])
    np.testing.assert_allclose(first[12:52], np.mean(model.shapes[:2], axis=0), atol=1e-5)
    assert np.abs(first[:12] - second[:12]).max() > 1 and np.abs(first[52:] - second[52:]).max() > 0.1


def test_the_texture_is_of_a_frontal_frame_with_a_closed_mouth():
    points = np.random.default_rng(0).uniform(40, 60, (68, 3)).astype(np.float32)
    points[[62, 66, 33, 8]] = [[50, 60, 0], [50, 60, 0], [50, 50, 0], [50, 80, 0]]
    opened = points.copy()
    opened[66] += np.float32([0, 9, 0])
    views, box = film.TextureViews(), np.float32([30, 30, 80, 80])
    frames_seen = [(opened, 0.0), (points, 50.0), (points, 5.0), (opened, 5.0), (points, 30.0)]
    for grey, (marks, yaw) in enumerate(frames_seen):
        face = Face(np.zeros(62, np.float32), box, marks, points, Pose(yaw, 0, 0), 0.9)
        views.see(np.full((100, 100, 3), grey, np.uint8), TrackedFace(7, face))
    assert views.texture(0, surface(), 8) is None
    _, part, face = views._best[7]
    assert (part == 2).all() and (face.vertices[:, :2].min() >= 0) and part.shape[0] < 60


def test_a_weight_of_zero_does_not_count():
    alpha, _ = smiling_film(jitter=0.5)
    shared = animatable.with_shared_shape(surface().model, alpha, np.array([1, 0, 0, 0, 0]))
    np.testing.assert_allclose(shared[:, 12:52], alpha[[0] * 5, 12:52], atol=1e-4)
    np.testing.assert_allclose(shared[0], alpha[0], rtol=1e-3, atol=1e-2)


def test_activations_are_the_nearest_within_their_bounds():
    """Compared with SciPy's solver, without the ridge and the price of a unit."""
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(0)
    expression = cc0_head.expression_coefficients(head(), face_units.sample_activations(rng, 4))
    found = cc0_head.solve_activations(head(), expression.reshape(2, 2, 10))
    assert found.shape == (2, 2, 52) and found.min() >= 0 and found.max() <= 1
    units = head().units.reshape(52, -1)[:, ::7].astype(np.float64)
    meshes = expression @ np.asarray(head().model.basis)[40:].reshape(10, -1)[:, ::7]
    for activation, mesh in zip(found.reshape(4, 52), meshes):
        best = lsq_linear(units.T, mesh, (0, 1)).x
        ours, least = (np.linalg.norm(solution @ units - mesh) for solution in (activation, best))
        assert ours < least + 0.05 * np.linalg.norm(mesh)
    assert not cc0_head.solve_activations(head(), np.zeros(10)).any()
