"""twodal_jax.detection.detectors and .lbp_cascade: each face is detected once, at any size and roll."""

import sys

import cv2
import numpy as np
import pytest
from helpers_detection import FakeAlignment

from data_pipelines.sources import synthetic
from twodal_jax.detection import detectors, lbp_cascade
from twodal_jax.detection.boxes import overlap, squares
from twodal_jax.geometry import heatmap, projection

skimage_data = pytest.importorskip("skimage.data")
LBP_FILE = skimage_data.lbp_frontal_face_cascade_filename()


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


def grey_astronaut(scale):
    picture = cv2.cvtColor(skimage_data.astronaut(), cv2.COLOR_RGB2GRAY)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


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


def test_the_cascade_accepts_the_same_windows_as_scikit_image():
    feature = pytest.importorskip("skimage.feature")
    grey = grey_astronaut(0.27)
    # At the window's own size scikit-image scales nothing.
    settings = {"scale_factor": 1.2, "step_ratio": 1, "min_size": (24, 24), "max_size": (25, 25)}
    theirs = feature.Cascade(LBP_FILE).detect_multi_scale(
        grey, **settings, min_neighbor_number=1, intersection_score_threshold=1.0
    )
    ours = lbp_cascade.windows(lbp_cascade.load(LBP_FILE), grey)
    assert {(box["c"], box["r"]) for box in theirs} == {(int(x), int(y)) for x, y, _ in ours} != set()


def test_a_stride_of_two_accepts_a_subset_with_all_even_windows():
    trained = lbp_cascade.load(LBP_FILE)
    grey = grey_astronaut(0.25)
    fine = {tuple(row) for row in lbp_cascade.windows(trained, grey)}
    coarse = {tuple(row) for row in lbp_cascade.windows(trained, grey, stride=2)}
    assert coarse <= fine
    assert coarse >= {row for row in fine if row[0] % 2 == 0 and row[1] % 2 == 0} != set()


def test_the_score_is_the_sum_of_the_stages_margins():
    trained = lbp_cascade.load(LBP_FILE)
    grey = grey_astronaut(0.27)
    before = {(x, y): score for x, y, score in lbp_cascade.windows(trained, grey)}
    easier = trained._replace(stage_threshold=trained.stage_threshold - np.float32(0.1))
    after = {(x, y): score for x, y, score in lbp_cascade.windows(easier, grey)}
    for place, score in before.items():
        assert after[place] == pytest.approx(score + 0.1 * len(trained.stage_threshold), abs=1e-3)


@pytest.mark.parametrize("content", ["", "<a/>", "<opencv_storage><cascade><stages/></cascade></opencv_storage>"])
def test_a_file_of_other_content_is_refused(tmp_path, content):
    path = tmp_path / "other.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match="other.xml: not an LBP cascade"):
        lbp_cascade.load(path)


def test_large_small_rotated_and_border_faces_are_detected_once(frontal):
    picture = plain(700, 1000)
    spec = [
        ((220, 220), 2.2, 0),
        ((560, 200), 0.6, 0),
        ((780, 300), 1.4, 40),
        ((380, 540), 1.2, -35),
        ((925, 580), 1.5, 0),
    ]
    expected = [paste(picture, face, *where) for face, where in zip(frontal, spec)]
    found = detectors.CascadeDetector().detect(picture)
    assert_detected(found, expected, [roll for *_, roll in spec])
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)


@pytest.mark.parametrize("roll", [-90, 120, 180])
def test_any_way_up_detects_faces_of_any_roll(frontal, roll):
    picture = plain(300, 400)
    truth = paste(picture, frontal[0], (200, 150), 1.0, roll)
    found = detectors.CascadeDetector(angles=detectors.ANY_WAY_UP).detect(picture)
    assert_detected(found[:1], [truth], [roll])


def test_faces_of_a_large_picture_are_detected_in_a_reduced_copy(frontal):
    picture = plain(500, 640)
    truth = paste(picture, frontal[0], (320, 250), 1.5, 0)
    large = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    found = detectors.CascadeDetector(angles=detectors.UPRIGHT).detect(large)
    assert_detected(found, [truth * 4 + [1.5, 1.5, 0]], [0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (24, 24), (3, 2000), (400, 300)])
def test_uniform_pictures_have_no_detections(shape):
    for value in (0, 255, 128):
        assert detectors.CascadeDetector().detect(np.full((*shape, 3), value, np.uint8)) == []


def test_the_astronauts_face_is_detected():
    image = np.ascontiguousarray(skimage_data.astronaut()[..., ::-1])
    face = detectors.CascadeDetector().detect(image)[0]
    # Both eyes and the mouth, read off the picture by eye.
    for x, y in ((205, 104), (246, 104), (225, 147)):
        assert (face.roi_box[:2] < [x, y]).all() and ([x, y] < face.roi_box[2:]).all()
    assert 90 < face.roi_box[2] - face.roi_box[0] < 150 and abs(face.roll_degrees) < 16


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
    with pytest.raises(ModuleNotFoundError, match="pip install -r requirements-landmarks.txt"):
        detectors.FaceAlignmentDetector()
