"""Detectors: each face is detected once, at any size, roll and brightness."""

import os
import sys

import cv2
import numpy as np
import pytest
from helpers_detection import FakeAlignment

from data_pipelines.sources import synthetic
from twodal_jax.detection import centerface, detectors
from twodal_jax.detection.boxes import overlap, squares
from twodal_jax.geometry import heatmap, projection

skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def frontal():
    """Rendered faces with little yaw, 180 pixels, and their 68 landmarks in them."""
    faces = [
        synthetic.render_face(np.random.default_rng([6, k]), max_yaw=10, margin=30, jitter=0, occluders=False)
        for k in range(5)
    ]
    return [(face.image, face.landmarks68[:, :2] + 30) for face in faces]


def paste(picture, face, centre, scale, roll):
    """Pastes a face on a picture, rotated clockwise; returns the true crop box's centre and side."""
    image, points = face
    middle = (len(image) - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), -roll, scale)
    matrix[:, 2] += np.array(centre) - middle
    size = picture.shape[1::-1]
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.ellipse(mask, (int(middle), int(middle) - 4), (66, 80), 0, 0, 360, 255, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 3)
    weight = cv2.warpAffine(mask, matrix, size)[..., None] / 255
    picture[:] = picture * (1 - weight) + cv2.warpAffine(image, matrix, size) * weight
    box = np.asarray(projection.roi_box_from_landmarks(points))
    where, side = (box[:2] + box[2:]) / 2, box[2] - box[0]
    return np.array([*(matrix[:, :2] @ where + matrix[:, 2]), side * scale])


def plain(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([60 + 120 * rows / height, 80 + 60 * columns / width, 90 + 0 * rows], axis=-1).astype(np.uint8)


def assert_detected(found, expected, rolls):
    """Checks that each face is detected once, within a quarter of its side and a third of its size."""
    assert len(found) == len(expected)
    for truth, roll in zip(expected, rolls):
        places = squares([face.roi_box for face in found])
        best = np.argmax(overlap(truth, places)[0])
        assert np.linalg.norm(places[best, :2] - truth[:2]) < 0.25 * truth[2]
        assert 0.7 < places[best, 2] / truth[2] < 1.4
        assert abs((found[best].roll_degrees - roll + 180) % 360 - 180) <= 16
        assert 0 < found[best].score <= 1


def test_large_small_rotated_and_border_faces_are_detected_once(frontal):
    picture = plain(700, 1000)
    spec = [
        ((220, 220), 2.2, 0),
        ((560, 200), 0.6, 0),
        ((780, 300), 1.4, 40),
        ((380, 540), 1.2, -50),
        ((925, 580), 1.5, 0),
    ]
    expected = [paste(picture, face, *where) for face, where in zip(frontal, spec)]
    found = centerface.CenterFaceDetector().detect(picture)
    assert_detected(found, expected, [roll for *_, roll in spec])
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)


@pytest.mark.parametrize("roll", [30, -60, -90, 120, 180])
def test_a_face_of_any_roll_is_detected_with_its_roll(frontal, roll):
    picture = plain(300, 400)
    truth = paste(picture, frontal[0], (200, 150), 1.0, roll)
    found = centerface.CenterFaceDetector().detect(picture)
    assert_detected(found[:1], [truth], [roll])


def test_faces_of_a_large_picture_are_detected_in_a_reduced_copy(frontal):
    picture = plain(500, 640)
    truth = paste(picture, frontal[0], (320, 250), 1.5, 0)
    large = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    found = centerface.CenterFaceDetector().detect(large)
    assert_detected(found, [truth * 4 + [1.5, 1.5, 0]], [0])


def test_tiny_faces_of_a_large_picture_are_detected_once_also_where_tiles_meet(frontal):
    picture = plain(1500, 3000)
    places = [(200, 300), (1200, 600), (900, 1200), (2970, 1470)]  # the second and third on borders of tiles
    expected = [paste(picture, face, place, 0.35, 0) for face, place in zip(frontal, places)]
    assert max(side for *_, side in expected) * 960 / 3000 < 20  # pixels of the first copy
    assert_detected(centerface.CenterFaceDetector().detect(picture), expected, [0] * 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (24, 24), (3, 2000), (400, 300)])
def test_uniform_pictures_have_no_detections(shape):
    for value in (0, 255, 128):
        assert centerface.CenterFaceDetector().detect(np.full((*shape, 3), value, np.uint8)) == []


@pytest.mark.parametrize(
    "camera",
    [lambda image: image * 0.12, lambda image: 200 + image * 0.1, lambda image: 255 - (255 - image) * 0.08],
    ids=["dark", "hazy", "bright"],
)
def test_a_face_of_little_contrast_is_detected(camera):
    image = np.ascontiguousarray(skimage_data.astronaut()[..., ::-1])
    (face,) = centerface.CenterFaceDetector().detect(camera(image).astype(np.uint8))
    assert face.score > 0.5 and squares([face.roi_box])[0][2] == pytest.approx(120, abs=20)


def test_the_astronauts_face_is_detected():
    image = np.ascontiguousarray(skimage_data.astronaut()[..., ::-1])
    face = centerface.CenterFaceDetector().detect(image)[0]
    # Both eyes and the mouth, read off the picture by eye.
    for x, y in ((205, 104), (246, 104), (225, 147)):
        assert (face.roi_box[:2] < [x, y]).all() and ([x, y] < face.roi_box[2:]).all()
    assert 90 < face.roi_box[2] - face.roi_box[0] < 150 and abs(face.roll_degrees) < 16


@pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_both_faces_of_a_photo_are_detected_with_their_roll_however_the_photo_is_turned(quarters):
    image = cv2.imread(os.path.join(os.environ["TWODAL_DATA_DIR"], "photos", "two_faces.jpg"))
    found = centerface.CenterFaceDetector().detect(np.ascontiguousarray(np.rot90(image, quarters)))
    assert len(found) == 2
    for face in found:
        assert abs((face.roll_degrees + 90 * quarters + 180) % 360 - 180) < 30


@pytest.mark.filterwarnings("error")
def test_face_alignment_gives_trainings_boxes_and_the_heatmaps_landmarks(frontal, monkeypatch):
    points = [points.astype(np.float32) + shift for (_, points), shift in zip(frontal, (0, 400, 800))]
    boxes = [np.array([0, 0, 10, 10, score]) for score in (0.8, 0.95, 0.3)]
    fake = FakeAlignment(points, boxes)
    monkeypatch.setitem(sys.modules, "face_alignment", fake)
    detector = detectors.FaceAlignmentDetector()
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    found = detector.detect(image)
    np.testing.assert_array_equal(fake.seen[0], image[..., ::-1])  # it takes RGB
    assert fake.made == [(2, "cpu")]
    assert [face.score for face in found] == pytest.approx([0.95, 0.8])  # the third is below min_score
    np.testing.assert_allclose(found[1].roi_box, projection.roi_box_from_landmarks(points[0]), rtol=1e-5)
    np.testing.assert_allclose(found[0].landmarks, heatmap.landmarks_18_from_68(points[1]), rtol=1e-5)
    np.testing.assert_allclose(found[0].landmarks68, points[1], rtol=1e-6)  # for networks with another mouth centre
    fake.points = []
    assert detector.detect(image) == []


def test_a_missing_face_alignment_package_is_reported_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "twodal_jax\[landmarks\]"'):
        detectors.FaceAlignmentDetector()
