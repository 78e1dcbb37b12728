"""twodal_jax.export.tables: CSV and JSON restore landmarks, pose and coefficients exactly."""

import csv
import dataclasses
import json
import os

import numpy as np
import pytest

from twodal_jax.detection.types import Face, Pose
from twodal_jax.export import tables


def random_face(seed: int) -> Face:
    rng = np.random.default_rng(seed)
    values = {
        name: rng.normal(60, 40, shape).astype(np.float32)
        for name, shape in (("alpha", 62), ("roi_box", 4), ("landmarks68", (68, 3)), ("vertices", (5, 3)))
    }
    return Face(**values, pose=Pose(yaw=12.5, pitch=-3.25, roll=float(rng.normal())), confidence=0.75)


def test_faces_json_restores_every_float32_with_one_point_a_line(tmp_path):
    faces = [random_face(0), random_face(1)]
    path = tables.write_faces_json(tmp_path / "faces.json", "photo.jpg", (640, 480), faces)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["file"], content["width"], content["height"]) == ("photo.jpg", 640, 480)
    assert content["program"].startswith("twodal_jax ")
    assert content["frames"].keys() >= {"box", "alpha", "pose", "landmarks68"}
    for number, (face, record) in enumerate(zip(faces, content["faces"], strict=True)):
        assert record["face"] == number and record["confidence"] == 0.75
        assert record["pose"] == dataclasses.asdict(face.pose)
        for name, array in (("alpha", face.alpha), ("box", face.roi_box), ("landmarks68", face.landmarks68)):
            np.testing.assert_array_equal(np.array(record[name], np.float32), array)
    assert sum(line.strip().startswith("[") for line in path.read_text().splitlines()) == 2 * 68


def test_values_that_are_not_finite_are_null_or_an_empty_cell(tmp_path):
    face = random_face(0)
    face.landmarks68[3, 1], face.landmarks68[4, 0] = np.nan, np.inf
    face = dataclasses.replace(face, confidence=float("nan"))
    text = tables.write_faces_json(tmp_path / "faces.json", "a", (9, 9), [face]).read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["faces"][0]
    assert record["landmarks68"][3][1] is None and record["landmarks68"][4][0] is None
    assert record["confidence"] is None
    path = tables.write_landmarks_csv(tmp_path / "l.csv", [("a", [face])])
    row = next(csv.DictReader(path.open(newline="")))
    assert row["y3"] == "" and row["x4"] == "" and float(row["z4"]) == pytest.approx(face.landmarks68[4, 2])


def test_the_csv_has_one_row_for_each_face_of_each_picture(tmp_path):
    faces = [random_face(n) for n in range(3)]
    pictures = [('a, b".jpg', faces[:2]), ("none.jpg", []), ("ü.jpg", faces[2:])]
    path = tables.write_landmarks_csv(tmp_path / "landmarks.csv", pictures)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["file", "face", "x0", "y0", "z0"]
    assert header[-1] == "z67" and len(header) == 2 + 3 * 68
    assert [row[:2] for row in rows] == [['a, b".jpg', "0"], ['a, b".jpg', "1"], ["ü.jpg", "0"]]
    for face, row in zip(faces, rows):
        np.testing.assert_array_equal(np.array(row[2:], np.float32).reshape(68, 3), face.landmarks68)


def test_pose_json_has_degrees(tmp_path):
    path = tables.write_pose_json(tmp_path / "pose.json", "a.jpg", [random_face(0)])
    record = json.loads(path.read_text())
    assert record["faces"][0]["yaw"] == 12.5 and record["faces"][0]["pitch"] == -3.25
    assert "degrees" in record["frame"]


@pytest.mark.parametrize("name", ["x [ 1,  2 ].jpg", "ü 顔.jpg", os.fsdecode(b"\xff.jpg"), 'q".jpg', "a\nb"])
def test_any_file_name_is_restored(tmp_path, name):
    path = tables.write_pose_json(tmp_path / "pose.json", name, [])
    assert json.loads(path.read_text(encoding="utf-8")) == {"file": name, "frame": tables.FRAMES["pose"], "faces": []}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tables.write_pose_json(tmp_path / "pose.json", "old", [])
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device.*pose.json"):
        tables.write_pose_json(path, "new", [])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_landmarks_of_another_shape_are_refused(tmp_path):
    face = dataclasses.replace(random_face(0), landmarks68=np.zeros((68, 2), np.float32))
    with pytest.raises(ValueError, match=r"`landmarks68` of shape \(68, 3\), got \(68, 2\)"):
        tables.write_landmarks_csv(tmp_path / "l.csv", [("a", [face])])
    assert not list(tmp_path.iterdir())
