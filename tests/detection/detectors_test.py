"""twodal_jax.detection.detectors and .cascade: faces are found where they are, once, whatever their size and turn."""

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
    """Faces drawn with little yaw, 180 pixels, and their 68 landmarks in these."""
    faces = [
        synthetic.render_face(np.random.default_rng([6, k]), max_yaw=10, margin=30, jitter=0, occluders=False)
        for k in range(5)
    ]
    return [(face.image, face.landmarks68[:, :2] + 30) for face in faces]


def paste(picture, face, centre, scale, roll):
    """Puts a face on a picture, turned clockwise; returns the true crop box's centre and side."""
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


def assert_found(found, expected, rolls):
    """Each expected face, and nothing else, with its place within a quarter and its size within a third."""
    assert len(found) == len(expected)
    for truth, roll in zip(expected, rolls):
        places = squares([face.roi_box for face in found])
        best = np.argmax(overlap(truth, places)[0])
        assert np.linalg.norm(places[best, :2] - truth[:2]) < 0.25 * truth[2]
        assert 0.7 < places[best, 2] / truth[2] < 1.4
        assert abs((found[best].roll_degrees - roll + 180) % 360 - 180) <= 16
        assert 0 < found[best].score <= 1


def test_the_cascade_passes_the_windows_that_scikit_image_passes():
    """At the window's own size, where scikit-image scales nothing."""
    feature = pytest.importorskip("skimage.feature")
    picture = cv2.cvtColor(skimage_data.astronaut(), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(picture, None, fx=0.27, fy=0.27, interpolation=cv2.INTER_AREA)
    theirs = feature.Cascade(LBP_FILE).detect_multi_scale(
        grey,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(24, 24),
        max_size=(25, 25),
        min_neighbor_number=1,
        intersection_score_threshold=1.0,
    )
    ours = lbp_cascade.windows(lbp_cascade.load(LBP_FILE), grey)
    assert {(box["c"], box["r"]) for box in theirs} == {(int(x), int(y)) for x, y, _ in ours} != set()


def test_a_coarse_look_finds_the_windows_of_a_fine_one_around_its_own():
    trained = lbp_cascade.load(LBP_FILE)
    picture = cv2.cvtColor(skimage_data.astronaut(), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(picture, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    fine = {tuple(row) for row in lbp_cascade.windows(trained, grey)}
    coarse = {tuple(row) for row in lbp_cascade.windows(trained, grey, stride=2)}
    assert coarse <= fine
    assert coarse >= {row for row in fine if row[0] % 2 == 0 and row[1] % 2 == 0} != set()


def test_the_score_is_how_far_the_stages_were_passed():
    trained = lbp_cascade.load(LBP_FILE)
    picture = cv2.cvtColor(skimage_data.astronaut(), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(picture, None, fx=0.27, fy=0.27, interpolation=cv2.INTER_AREA)
    before = {(x, y): score for x, y, score in lbp_cascade.windows(trained, grey)}
    easier = trained._replace(stage_threshold=trained.stage_threshold - np.float32(0.1))
    after = {(x, y): score for x, y, score in lbp_cascade.windows(easier, grey)}
    for place, score in before.items():
        assert after[place] == pytest.approx(score + 0.1 * len(trained.stage_threshold), abs=1e-3)


@pytest.mark.parametrize("content", ["", "<a/>", "<opencv_storage><cascade><stages/></cascade></opencv_storage>"])
def test_another_file_is_no_cascade(tmp_path, content):
    path = tmp_path / "other.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match="other.xml: no LBP cascade"):
        lbp_cascade.load(path)


def test_five_faces_large_small_turned_and_at_the_border_are_found_once(frontal):
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
    assert_found(found, expected, [roll for *_, roll in spec])
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)


@pytest.mark.parametrize("roll", [-90, 120, 180])
def test_faces_any_way_up_are_found_on_request(frontal, roll):
    picture = plain(300, 400)
    truth = paste(picture, frontal[0], (200, 150), 1.0, roll)
    found = detectors.CascadeDetector(angles=detectors.ANY_WAY_UP).detect(picture)
    assert_found(found[:1], [truth], [roll])


def test_a_large_picture_is_searched_like_a_small_copy_of_it(frontal):
    picture = plain(500, 640)
    truth = paste(picture, frontal[0], (320, 250), 1.5, 0)
    large = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    found = detectors.CascadeDetector(angles=detectors.UPRIGHT).detect(large)
    assert_found(found, [truth * 4 + [1.5, 1.5, 0]], [0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (24, 24), (3, 2000), (400, 300)])
def test_where_no_face_is_none_is_found(shape):
    for value in (0, 255, 128):
        assert detectors.CascadeDetector().detect(np.full((*shape, 3), value, np.uint8)) == []


def test_the_astronaut_is_found():
    image = np.ascontiguousarray(skimage_data.astronaut()[..., ::-1])
    face = detectors.CascadeDetector().detect(image)[0]
    # Both eyes and the mouth, read off the picture by eye.
    for x, y in ((205, 104), (246, 104), (225, 147)):
        assert (face.roi_box[:2] < [x, y]).all() and ([x, y] < face.roi_box[2:]).all()
    assert 90 < face.roi_box[2] - face.roi_box[0] < 150 and abs(face.roll_degrees) < 16


@pytest.mark.filterwarnings("error")
def test_face_alignment_gives_boxes_of_training_and_the_heatmaps_landmarks(frontal, monkeypatch):
    points = [points.astype(np.float32) + shift for (_, points), shift in zip(frontal, (0, 400, 800))]
    boxes = [np.array([0, 0, 10, 10, score]) for score in (0.8, 0.95, 0.3)]
    fake = FakeAlignment(points, boxes)
    monkeypatch.setitem(sys.modules, "face_alignment", fake)
    detector = detectors.FaceAlignmentDetector()
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    found = detector.detect(image)
    np.testing.assert_array_equal(fake.seen[0], image[..., ::-1])  # it takes RGB
    assert fake.made == [(2, "cpu")]
    assert [face.score for face in found] == pytest.approx([0.95, 0.8])  # the third is too unsure
    np.testing.assert_allclose(found[1].roi_box, projection.roi_box_from_landmarks(points[0]), rtol=1e-5)
    np.testing.assert_allclose(found[0].landmarks, heatmap.landmarks_18_from_68(points[1]), rtol=1e-5)
    np.testing.assert_allclose(found[0].landmarks68, points[1], rtol=1e-6)  # a network may be shown another mouth
    fake.points = []
    assert detector.detect(image) == []


def test_face_alignment_that_is_missing_is_asked_for_by_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(ModuleNotFoundError, match="pip install -r requirements-landmarks.txt"):
        detectors.FaceAlignmentDetector()
