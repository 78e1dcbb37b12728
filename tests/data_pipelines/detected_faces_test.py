"""UMDFaces and annotated sets with 68-point detections, from a file or detected during preparation."""

import csv
import sys

import numpy as np
import pytest
from helpers_detection import FakeAlignment
from helpers_umdfaces import write_umdfaces

from data_pipelines.preparation import prepare
from data_pipelines.sources import registry
from data_pipelines.sources.base import SourceError
from data_pipelines.sources.detected_faces import best_match, NO_DETECTION
from data_pipelines.storage import prepared_dataset
from tests.helpers_face_files import parameters, read_all, run_prepare_data, tiny_model, true_landmarks, write_pair
from twodal_jax.geometry import heatmap, projection

# Inside the face boxes of helpers_umdfaces, x 30 to 120, y 30 to 125, and upright: brows and eyes (17 to 47) above the
# mouth.
FACE = np.random.default_rng(3).uniform([35, 40], [115, 125], (68, 2)).astype(np.float32).round(2)
FACE[17:48, 1], FACE[48:, 1] = np.linspace(45, 75, 31), np.linspace(95, 120, 20)
OTHER_FACE = FACE * 0.1
MODEL = tiny_model()


@pytest.fixture()
def folder(tmp_path):
    write_umdfaces(tmp_path / "umd", 5)
    return tmp_path / "umd"


@pytest.fixture()
def fake_detector(monkeypatch):
    """Makes face_alignment detect the given faces in every image."""

    def install(*faces):
        scores = [np.array([0, 0, 9, 9, 0.9 - 0.1 * place]) for place in range(len(faces))]
        fake = FakeAlignment(list(faces), scores)
        monkeypatch.setitem(sys.modules, "face_alignment", fake)
        return fake

    return install


def assert_is_face(face, shift=0.0):
    box = np.asarray(projection.roi_box_from_landmarks(FACE + np.float32(shift)))
    expected = projection.image_to_crop(heatmap.landmarks_18_from_68(FACE + np.float32(shift)), box)
    np.testing.assert_allclose(face["landmarks"], expected, atol=1e-3)
    assert face["visible"].all() and face["image"].shape == (160, 160, 3)


def test_68_points_of_a_file_replace_the_tables_and_place_the_crop(folder, tmp_path):
    name = "umdfaces_batch1/s0/face000{}.jpg"
    detections = [
        (name.format(0), FACE),
        ("s0/face0001", OTHER_FACE),
        ("s0/face0001.jpg", FACE + 1),  # names relative to the batch match too
        (name.format(2), OTHER_FACE),
        (name.format(3), np.full((68, 2), -1)),
    ]
    with open(tmp_path / "d.csv", "w", newline="") as file:
        csv.writer(file).writerows([name, *points.ravel()] for name, points in detections)
    source = registry.open_source("umdfaces", folder, landmarks=tmp_path / "d.csv")
    faces = read_all(source)
    assert_is_face(faces[0])
    assert_is_face(faces[1], 1)
    assert [face.reason for face in faces[2:]] == [NO_DETECTION] * 3
    assert "1 detections in" in faces[2].detail and "0 detections in" in faces[3].detail
    assert source.fingerprint() != registry.open_source("umdfaces", folder).fingerprint()
    summary = prepare.prepare(source, tmp_path / "out", format="arrays", max_skipped=0)
    assert summary.count == 2 and summary.reasons == {NO_DETECTION: 3}  # does not count as unreadable


def test_faces_are_detected_during_preparation(folder, tmp_path, monkeypatch, capsys, fake_detector):
    fake = fake_detector(OTHER_FACE, FACE)
    faces = read_all(registry.open_source("umdfaces", folder, detect="face-alignment"))
    assert len(fake.made) == 1 and len(fake.seen) == len(faces) == 5
    for face in faces:
        assert_is_face(face)
    fake.points = [OTHER_FACE]
    assert run_prepare_data("umdfaces", folder, tmp_path / "out", "--detect=face-alignment", "--workers=1") == 1
    assert f"none of 5 faces could be used: {NO_DETECTION} (5)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    assert run_prepare_data("umdfaces", folder, tmp_path / "out", "--detect=face-alignment") == 1
    assert 'pip install "twodal_jax[landmarks]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "source, options",
    [("wild_csv", {}), ("tfds_300w_lp", {}), ("mat", {"landmarks": "d.csv"}), ("umdfaces", {"landmarks": "d.csv"})],
)
def test_detectors_go_with_mat_and_umdfaces_alone(tmp_path, source, options):
    with pytest.raises(SourceError, match="--detect goes with the sources mat and umdfaces"):
        registry.open_source(source, tmp_path, detect="face-alignment", **options)


def test_the_detection_with_the_largest_overlap_matches_and_none_with_a_small_one():
    box = np.array([0.0, 0, 100, 100])
    near, nearer, far = box + 30, box + 10, box + 80
    assert best_match(box, np.array([near, nearer, far])) == 1
    assert best_match(box, np.array([far])) is None
    assert best_match(np.full(4, np.nan), np.array([far, near])) == 0
    assert best_match(box, np.zeros((0, 4))) is None


def test_annotated_faces_keep_their_crop_and_stay_without_a_detection(tmp_path, fake_detector):
    folder = tmp_path / "lp"
    for index, seed in enumerate((1, 2)):
        write_pair(folder, f"photo_{index}", MODEL, seed)
    shifted = true_landmarks(MODEL, parameters(1))[:2].T + np.float32([2.0, -3.0])
    fake = fake_detector(shifted)
    flags = "--format=arrays", "--detect=face-alignment", "--workers=1"
    assert run_prepare_data("mat", folder, tmp_path / "out", *flags) == 0
    opened = prepared_dataset.open_prepared(tmp_path / "out", kind="annotated")
    assert len(fake.seen) == 2 and opened.manifest["source"] == "mat:lp:face-alignment"
    box = opened.arrays["roi_box"][0]
    expected = heatmap.landmarks_18_from_68(projection.image_to_crop(np.float32(shifted), box))
    np.testing.assert_allclose(opened.arrays["detected"][0], expected, atol=2e-3)
    assert opened.arrays["detected_visible"][0].all()
    plain = registry.open_source("mat", folder)
    first = read_all(plain)[0]
    np.testing.assert_array_equal(box, first["roi_box"])  # of the true landmarks, not of the detected ones
    assert not first["detected_visible"].any()
    fake_detector(OTHER_FACE)
    source = registry.open_source("mat", folder, detect="face-alignment")
    assert not any(face["detected_visible"].any() or face["detected"].any() for face in read_all(source))
    assert source.fingerprint() != plain.fingerprint()
