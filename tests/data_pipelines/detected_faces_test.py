"""UMDFaces and annotated sets with 68-point detections: of a file, and found while the faces are prepared."""

import csv
import sys

import numpy as np
import pytest
from helpers_detection import FakeAlignment
from helpers_umdfaces import write_umdfaces

from data_pipelines.preparation import prepare
from data_pipelines.sources import registry
from data_pipelines.sources.base import Skip, SourceError
from data_pipelines.sources.detected_faces import best_match, NO_DETECTION
from data_pipelines.storage import prepared_dataset
from scripts import prepare_data
from tests.helpers_face_files import parameters, tiny_model, true_landmarks, write_pair
from twodal_jax.geometry import heatmap, projection

# The table's face boxes of helpers_umdfaces: x 30 to 120, y 30 to 125.
# Upright: brows and eyes (17 to 47) above the mouth.
FACE = np.random.default_rng(3).uniform([35, 40], [115, 125], (68, 2)).astype(np.float32).round(2)
FACE[17:48, 1], FACE[48:, 1] = np.linspace(45, 75, 31), np.linspace(95, 120, 20)
STRANGER = FACE * 0.1
MODEL = tiny_model()


def write_detections(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([name, *points.ravel()] for name, points in rows)


@pytest.fixture()
def folder(tmp_path):
    write_umdfaces(tmp_path / "umd", 5)
    return tmp_path / "umd"


def assert_is_face(face, shift=0.0):
    box = np.asarray(projection.roi_box_from_landmarks(FACE + np.float32(shift)))
    expected = projection.image_to_crop(heatmap.landmarks_18_from_68(FACE + np.float32(shift)), box)
    np.testing.assert_allclose(face["landmarks"], expected, atol=1e-3)
    assert face["visible"].all() and face["image"].shape == (160, 160, 3)


def test_a_files_68_points_replace_the_tables_and_place_the_crop(folder, tmp_path):
    name = "umdfaces_batch1/s0/face000{}.jpg"
    write_detections(
        tmp_path / "d.csv",
        [
            (name.format(0), FACE),
            ("s0/face0001", STRANGER),
            ("s0/face0001.jpg", FACE + 1),  # by either name
            (name.format(2), STRANGER),
            (name.format(3), np.full((68, 2), -1)),
        ],
    )
    source = registry.open_source("umdfaces", folder, landmarks=tmp_path / "d.csv")
    faces = list(source.faces(0, 5))
    assert_is_face(faces[0])
    assert_is_face(faces[1], 1)
    assert [face.reason for face in faces[2:]] == [NO_DETECTION] * 3 and isinstance(faces[4], Skip)
    assert "1 detections in" in faces[2].detail and "0 detections in" in faces[3].detail
    assert source.fingerprint() != registry.open_source("umdfaces", folder).fingerprint()
    summary = prepare.prepare(source, tmp_path / "out", format="arrays", max_skipped=0)
    assert summary.count == 2 and summary.reasons == {NO_DETECTION: 3}  # no sign of broken files


def test_faces_are_found_while_they_are_prepared(folder, tmp_path, monkeypatch, capsys):
    fake = FakeAlignment([STRANGER, FACE], [np.array([0, 0, 9, 9, score]) for score in (0.9, 0.8)])
    monkeypatch.setitem(sys.modules, "face_alignment", fake)
    faces = list(registry.open_source("umdfaces", folder, detect="face-alignment").faces(0, 5))
    assert len(fake.made) == 1 and len(fake.seen) == 5
    for face in faces:
        assert_is_face(face)
    fake.points = [STRANGER]
    assert (
        prepare_data.main(
            ["umdfaces", f"--input={folder}", f"--output={tmp_path / 'out'}", "--detect=face-alignment", "--workers=1"]
        )
        == 1
    )
    assert f"none of 5 faces could be used: {NO_DETECTION} (5)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    assert (
        prepare_data.main(["umdfaces", f"--input={folder}", f"--output={tmp_path / 'out'}", "--detect=face-alignment"])
        == 1
    )
    assert "pip install -r requirements-landmarks.txt" in capsys.readouterr().err


def test_detectors_go_with_mat_and_umdfaces_alone(folder):
    for name, options in (
        ("wild_csv", {}),
        ("tfds_300w_lp", {}),
        ("mat", {"landmarks": "d.csv"}),
        ("umdfaces", {"landmarks": "d.csv"}),
    ):
        with pytest.raises(SourceError, match="--detect goes with the sources mat and umdfaces"):
            registry.open_source(name, folder, detect="face-alignment", **options)


def test_the_face_that_shares_most_is_taken_and_none_that_shares_little():
    box = np.array([0.0, 0, 100, 100])
    near, nearer, far = box + 30, box + 10, box + 80
    assert best_match(box, np.array([near, nearer, far])) == 1
    assert best_match(box, np.array([far])) is None
    assert best_match(np.full(4, np.nan), np.array([far, near])) == 0
    assert best_match(box, np.zeros((0, 4))) is None


def test_annotated_faces_get_the_detectors_landmarks_in_their_own_crop_and_keep_those_not_found(tmp_path, monkeypatch):
    for index, seed in enumerate((1, 2)):
        write_pair(tmp_path / "lp", f"photo_{index}", MODEL, seed)
    truth = [true_landmarks(MODEL, parameters(seed))[:2].T for seed in (1, 2)]
    shifted = truth[0] + np.float32([2.0, -3.0])
    fake = FakeAlignment([shifted], [np.array([0, 0, 9, 9, 0.9])])
    monkeypatch.setitem(sys.modules, "face_alignment", fake)
    with_it = tmp_path / "with"
    assert (
        prepare_data.main(
            [
                "mat",
                f"--input={tmp_path / 'lp'}",
                f"--output={with_it}",
                "--format=arrays",
                "--detect=face-alignment",
                "--workers=1",
            ]
        )
        == 0
    )
    opened = prepared_dataset.open_prepared(with_it, kind="annotated")
    assert len(fake.seen) == 2 and opened.manifest["source"] == "mat:lp:face-alignment"
    box = opened.arrays["roi_box"][0]
    expected = heatmap.landmarks_18_from_68(projection.image_to_crop(np.float32(shifted), box))
    np.testing.assert_allclose(opened.arrays["detected"][0], expected, atol=2e-3)
    assert opened.arrays["detected_visible"][0].all()
    plain = list(registry.open_source("mat", tmp_path / "lp").faces(0, 2))
    np.testing.assert_array_equal(box, plain[0]["roi_box"])  # the crop stays that of the truth
    assert not plain[0]["detected_visible"].any()
    far = FakeAlignment([STRANGER], [np.array([0, 0, 9, 9, 0.9])])
    monkeypatch.setitem(sys.modules, "face_alignment", far)
    source = registry.open_source("mat", tmp_path / "lp", detect="face-alignment")
    assert not any(face["detected_visible"].any() or face["detected"].any() for face in source.faces(0, 2))
    assert source.fingerprint() != registry.open_source("mat", tmp_path / "lp").fingerprint()
