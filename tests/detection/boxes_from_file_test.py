"""twodal_jax.detection.from_file: detections agree with the file's boxes and landmarks, images match by name."""

import json

import numpy as np
import pytest

from twodal_jax.detection import boxes, from_file
from twodal_jax.detection.types import Face, Pose
from twodal_jax.export import tables
from twodal_jax.geometry import heatmap, projection
from twodal_jax.reconstruction import crop_window


@pytest.fixture()
def points():
    """68 landmarks of an upright, symmetric face."""
    points = np.full((68, 2), 150, np.float32)
    points[:17] = np.column_stack([np.linspace(100, 200, 17), 200 - 60 * np.linspace(-1, 1, 17) ** 2])
    points[17:27] = np.column_stack([np.linspace(115, 185, 10), np.full(10, 120)])
    points[36:48] = np.column_stack([np.repeat([120, 130, 140, 160, 170, 180], 2), np.full(12, 132)])
    points[48:68] = np.column_stack([np.full(20, 150), np.full(20, 170)])
    points[[48, 54], 0] = 132, 168
    return points


def row(*cells):
    return ",".join(str(cell) for cell in cells)


def written(folder, name, *lines):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_several_rows_of_an_image_are_several_detections(tmp_path):
    rows = ("file,x1,y1,x2,y2,roll", "a.jpg,10,20,110,140,15", "b.jpg,1,2,3,4", "a.jpg,200,20,300,120,")
    path = written(tmp_path, "boxes.csv", *rows)
    first, second = from_file.read_boxes(path).find("photos/a.jpg")
    # 3DDFA's rule by hand: mean of width and height 110, centre (60, 80 + 0.14 * 110), side 1.58 * 110.
    np.testing.assert_allclose(first.roi_box, [60 - 86.9, 95.4 - 86.9, 60 + 86.9, 95.4 + 86.9], rtol=1e-5)
    assert (first.roll_degrees, second.roll_degrees, first.score) == (15, 0, 1)


def test_crop_boxes_are_used_unchanged(tmp_path):
    path = written(tmp_path, "boxes.csv", "file, sx, sy, ex, ey", "a.jpg, 10, 20, 110, 120")
    np.testing.assert_array_equal(from_file.read_boxes(path).find("a.jpg")[0].roi_box, [10, 20, 110, 120])


def test_a_first_line_of_numbers_is_not_a_header(tmp_path):
    faces = from_file.read_boxes(written(tmp_path, "boxes.csv", "a.jpg,10,20,110,120"))
    assert len(faces.find("a.jpg")) == 1


def test_68_landmarks_give_trainings_box_and_the_heatmaps_18_landmarks(tmp_path, points):
    for lines in ([row("file", *[f"{axis}{i}" for i in range(68) for axis in "xy"])], []):
        path = written(tmp_path, "points.csv", *lines, row("a.jpg", *points.ravel()))
        (face,) = from_file.read_landmarks(path).find("a.jpg")
        np.testing.assert_allclose(face.roi_box, projection.roi_box_from_landmarks(points), rtol=1e-5)
        np.testing.assert_allclose(face.landmarks, heatmap.landmarks_18_from_68(points), rtol=1e-5)
        assert face.visible.all() and face.roll_degrees == 0


@pytest.mark.parametrize("count", [21, 18])
def test_21_or_18_landmarks_are_the_heatmaps_and_unknown_ones_are_not_visible(tmp_path, points, count):
    eighteen = np.asarray(heatmap.landmarks_18_from_68(points))
    all_of_them = np.full((count, 2), 150.0)
    places = heatmap.INDICES_OF_21 if count == 21 else np.arange(18)
    all_of_them[places] = eighteen
    cells = [str(value) for value in all_of_them.ravel()]
    cells[2 * places[3] : 2 * places[3] + 2] = "-1", "-1"
    cells[2 * places[5]] = ""
    (face,) = from_file.read_landmarks(written(tmp_path, "points.csv", row("a", *cells))).find("a.jpg")
    hidden = np.isin(np.arange(18), [3, 5])
    np.testing.assert_array_equal(face.visible, ~hidden)
    np.testing.assert_allclose(face.landmarks[~hidden], eighteen[~hidden], rtol=1e-5)
    assert np.isfinite(face.landmarks).all()
    of_68 = np.asarray(projection.roi_box_from_landmarks(points))
    middle, side = (face.roi_box[:2] + face.roi_box[2:]) / 2, np.ptp(face.roi_box[::2])
    assert (np.abs(middle - 150) < 25).all() and 0.5 < side / np.ptp(of_68[::2]) < 1.5


@pytest.mark.parametrize("roll", [-100, -50, 40, 90, 170])
def test_the_box_follows_the_roll_of_a_face(points, roll):
    turn, centre = np.radians(roll), np.float32([150, 150])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    upright, turned = boxes.from_landmarks68(points), boxes.from_landmarks68((points - centre) @ matrix.T + centre)
    # The 18 landmarks are not symmetric here, so the roll is approximate.
    assert abs((turned.roll_degrees - roll + 180) % 360 - 180) < 6
    middles = [(face.roi_box[:2] + face.roi_box[2:]) / 2 for face in (upright, turned)]
    np.testing.assert_allclose(middles[1], (middles[0] - centre) @ matrix.T + centre, atol=5)
    np.testing.assert_allclose(np.ptp(turned.roi_box[::2]), np.ptp(upright.roi_box[::2]), rtol=0.1)


def test_npz_landmarks_csv_and_faces_json_agree(tmp_path, points):
    deep = np.column_stack([points, np.zeros(68)]).astype(np.float32)
    upright = np.asarray(projection.roi_box_from_landmarks(points))
    face = Face(np.zeros(62, np.float32), upright, deep, deep, Pose(1, 2, 33), 0.5)
    tables.write_faces_json(tmp_path / "faces.json", "photos/a.jpg", (300, 200), [face, face])
    tables.write_landmarks_csv(tmp_path / "landmarks.csv", [("photos/a.jpg", [face, face])])
    np.savez(tmp_path / "points.npz", name=np.array(["a", "a"]), landmarks=np.stack([points, points]))
    expected = boxes.from_landmarks68(points)
    for name in ("faces.json", "landmarks.csv", "points.npz"):
        found = from_file.read_landmarks(tmp_path / name).find("/somewhere/photos/a.jpg")
        assert len(found) == 2
        np.testing.assert_allclose(found[1].landmarks, expected.landmarks, rtol=1e-5)
        np.testing.assert_allclose(found[1].roi_box, expected.roi_box, rtol=1e-5)
    (box, _) = from_file.read_boxes(tmp_path / "faces.json").find("photos/a.jpg")
    np.testing.assert_allclose(box.roi_box, upright, rtol=1e-5)
    assert box.roll_degrees == 33


def test_a_json_list_of_images_is_read(tmp_path):
    pictures = [{"file": "a.jpg", "faces": [{"box": [0, 0, 9, 9]}]}, {"file": "b.jpg", "faces": []}]
    faces = from_file.read_boxes(written(tmp_path, "all.json", json.dumps(pictures)))
    assert len(faces.find("a.jpg")) == 1 and faces.find("b.jpg") == []


def test_names_match_by_path_by_stem_and_by_a_unique_name(tmp_path):
    rows = ("x/a.jpg,0,0,10,10", "y/a.jpg,0,0,20,20", r".\z\b.png,0,0,30,30", "c,0,0,40,40")
    faces = from_file.read_boxes(written(tmp_path, "boxes.csv", *rows))
    expected = {"x/a.jpg": 10, "/deep/y/a.png": 20, "z/b.png": 30, "other/b.png": 30, "q/c.jpeg": 40}
    for name, size in expected.items():
        (face,) = faces.find(name)
        assert round(float(np.ptp(face.roi_box[::2]) / 1.58)) == size, name
    assert [faces.find(name) for name in ("w/a.jpg", "a.jpg", "d.jpg")] == [None] * 3


def test_an_image_without_a_face_has_an_empty_list(tmp_path):
    boxes_file = written(tmp_path, "boxes.csv", "a.jpg,,,,", "b.jpg,-1,-1,-1,-1", "c.jpg,nan,nan,nan,nan")
    faces = from_file.read_boxes(boxes_file)
    assert [faces.find(name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")] == [[], [], [], None]
    nothing = from_file.read_landmarks(written(tmp_path, "points.csv", row("a.jpg", *[""] * 136)))
    assert nothing.find("a.jpg") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("boxes.csv", "a.jpg,1,2,3\n", r"boxes.csv:1: 4 columns, expected file, x1"),
        ("boxes.csv", "file,x1,y1,x2,y2\na.jpg,50,50,30,30\n", r"boxes.csv:2: x2 and y2 must be larger .* width"),
        ("boxes.csv", "\n", "is empty"),
        ("boxes.json", "{", "not a faces.json"),
        ("boxes.json", '{"file": "a.jpg"}', "not a faces.json"),
        ("boxes.json", '{"file": "a.jpg", "faces": [{"box": [1, 2]}]}', "not a faces.json"),
    ],
)
def test_an_invalid_file_of_boxes_is_refused(tmp_path, name, content, message):
    with pytest.raises(from_file.GivenError, match=message):
        from_file.read_boxes(written(tmp_path, name, content))


def test_an_invalid_file_of_landmarks_is_refused(tmp_path):
    with pytest.raises(from_file.GivenError, match="no such file"):
        from_file.read_landmarks(tmp_path / "none.csv")
    with pytest.raises(from_file.GivenError, match="points.csv:1: 11 columns, expected .*68, 21 or 18"):
        from_file.read_landmarks(written(tmp_path, "points.csv", row("a.jpg", *range(10))))
    with pytest.raises(from_file.GivenError, match="not a readable .npz"):
        from_file.read_landmarks(written(tmp_path, "points.npz", "hello"))
    np.savez(tmp_path / "points.npz", name=["a"], landmarks=np.zeros((1, 5, 2)))
    with pytest.raises(from_file.GivenError, match=r"float64 \[1, 5, 2\], expected \[1, 68 or 21 or 18, 2\]"):
        from_file.read_landmarks(tmp_path / "points.npz")
    np.savez(tmp_path / "points.npz", other=1)
    with pytest.raises(from_file.GivenError, match="needs `name` and `landmarks`, has other"):
        from_file.read_landmarks(tmp_path / "points.npz")


def test_images_that_differ_only_in_the_suffix_keep_their_own_faces(tmp_path):
    lines = ["x.jpg,10,20,110,140", "x.png,20,20,120,140", "y.jpg,1,2,33,44", "z,1,2,33,44"]
    faces = from_file.read_boxes(written(tmp_path, "boxes.csv", *lines))
    first, second = (faces.find(f"photos/x.{kind}") for kind in ("jpg", "png"))
    assert (len(first), len(second)) == (1, 1) and first[0].roi_box[0] < second[0].roi_box[0]
    assert faces.find("x.webp") is None  # ambiguous
    assert len(faces.find("y.png")) == len(faces.find("z.jpg")) == len(faces.find("z.png")) == 1


def test_68_landmarks_give_the_mouth_centre_of_either_network(tmp_path, points):
    points[[62, 66]] = [[150, 160], [150, 164]]
    path = written(tmp_path, "points.csv", row("a.jpg", *points.ravel()), row("b.jpg", *points.ravel()[:-2], "", ""))
    for name in ("a.jpg", "b.jpg"):
        (face,) = from_file.read_landmarks(path).find(name)
        window = crop_window.CropWindow.of(face)
        for authors, centre in ((False, points[[48, 54]].mean(axis=0)), (True, points[[62, 66]].mean(axis=0))):
            shown = crop_window.initial_landmarks(window, face, authors)
            np.testing.assert_allclose(shown[16, :2], window.from_image(centre[None])[0], atol=1e-3)
            assert shown[16, 2] == 1
