"""In-the-wild readers: 21, 68 and 18 points, UMDFaces, detections; missing columns are named."""

import os
import pathlib

import cv2
import numpy as np
import pytest

from data_pipelines.sources.base import Skip, SourceError, to_18_landmarks
from data_pipelines.sources.detections import read_detections
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.sources.wild_csv import detection_faces, wild_csv_faces
from tests.helpers_face_files import photo
from twodal_jax.geometry import heatmap

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
HEADER_21 = "file,yaw_deg," + ",".join(f"x{k},y{k},visible{k}" for k in range(21))


def write_image(path, size=120, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), photo(size, seed))


def line_21(name, points, visible, yaw=5.0):
    cells = [f"{x},{y},{int(v)}" for (x, y), v in zip(points, visible)]
    return f"{name},{yaw}," + ",".join(cells)


def read_all(source):
    return list(source.faces(0, len(source)))


def test_21_points_become_the_18_with_their_visibility(tmp_path):
    points = np.random.default_rng(0).uniform(5, 115, (21, 2)).round(2)
    visible = np.arange(21) % 3 > 0
    write_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "landmarks21.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', points, visible, -40)}\n")
    source = wild_csv_faces(tmp_path)
    (face,) = read_all(source)
    assert source.margin == 0 and face["image"].shape == (120, 120, 3)
    seen = visible[heatmap.INDICES_OF_21]
    np.testing.assert_array_equal(face["visible"], seen)
    np.testing.assert_allclose(face["landmarks"][seen], points[heatmap.INDICES_OF_21][seen])
    assert (face["landmarks"][~seen] == 0).all()
    assert face["yaw_deg"] == -40
    ears_and_chin = [12, 16, 20]
    np.testing.assert_array_equal(face["jaw_visible"], visible[ears_and_chin])
    np.testing.assert_allclose(face["jaw"], np.where(visible[:, None], points, 0)[ears_and_chin], rtol=1e-6)


def test_empty_nan_and_minus_one_mean_invisible(tmp_path):
    points = np.full((21, 2), 50.0).astype(object)
    points[0], points[1], points[2] = ["", ""], ["nan", 4], [-1, -1]
    write_image(tmp_path / "a.jpg")
    (tmp_path / "l.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', points, np.ones(21))}\n")
    (face,) = read_all(wild_csv_faces(tmp_path))
    np.testing.assert_array_equal(face["visible"], [0, 0, 0] + [1] * 15)
    np.testing.assert_array_equal(face["jaw_visible"], [1, 1, 1])


def test_a_missing_chin_and_hidden_ears_cost_no_landmark(tmp_path):
    points = np.full((21, 2), 50.0).astype(object)
    points[20] = ["", "nan"]
    visible = np.ones(21)
    visible[[12, 16]] = 0
    write_image(tmp_path / "a.jpg")
    (tmp_path / "l.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', points, visible)}\n")
    (face,) = read_all(wild_csv_faces(tmp_path))
    assert face["visible"].all() and not face["jaw_visible"].any() and not face["jaw"].any()


def test_a_face_with_nothing_but_its_chin_is_skipped(tmp_path):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "l.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', np.full((21, 2), 50.0), np.arange(21) == 20)}\n")
    (skip,) = read_all(wild_csv_faces(tmp_path))
    assert isinstance(skip, Skip) and skip.reason == "no landmarks"


def test_68_points_of_whole_images_are_cropped_by_their_box(tmp_path):
    points = np.random.default_rng(0).uniform(150, 350, (68, 2)).round(1)
    write_image(tmp_path / "a.png", 450)
    header = "file," + ",".join(f"x{k},y{k}" for k in range(68))
    (tmp_path / "l.csv").write_text(f"{header}\na.png," + ",".join(map(str, points.ravel())) + "\n")
    source = wild_csv_faces(tmp_path, margin=20)
    (face,) = read_all(source)
    assert source.margin == 20 and face["image"].shape == (160, 160, 3)
    assert face["visible"].all() and np.isnan(face["yaw_deg"])
    low, high = points.min(0), points.max(0)
    scale = np.sqrt(2) * (high - low).max() / 120
    # The box counts edges of pixels, the landmarks centres.
    expected = (to_18_landmarks(points, np.ones(68))[0] + 0.5 - (low + high) / 2) / scale + 60 - 0.5
    np.testing.assert_allclose(face["landmarks"], expected, atol=1e-3)


def test_bad_lines_and_images_cost_no_other(tmp_path):
    points, all_visible = np.full((21, 2), 30.0), np.ones(21)
    for name in ("good.jpg", "other.jpg"):
        write_image(tmp_path / name)
    write_image(tmp_path / "big.jpg", 200)
    (tmp_path / "empty.jpg").write_bytes(b"")
    lines = [line_21(name, points, all_visible) for name in ("good.jpg", "missing.jpg", "empty.jpg", "big.jpg")]
    lines += [
        "short.jpg,1,2",
        line_21("text.jpg", points, all_visible).replace("30.0", "left", 1),
        "",
        line_21("hidden.jpg", points, np.zeros(21)),
        line_21("", points, all_visible),
        line_21("other.jpg", points, all_visible),
    ]
    (tmp_path / "l.csv").write_text("\n".join([HEADER_21, *lines]))
    faces = read_all(wild_csv_faces(tmp_path, ready=True))
    reasons = [face.reason if isinstance(face, Skip) else face["name"] for face in faces]
    assert reasons == [
        "good.jpg",
        "image not found",
        "empty image file",
        "not a 120 x 120 crop",
        "broken line in the table",
        "broken line in the table",
        "no landmarks",
        "broken line in the table",
        "other.jpg",
    ]
    assert "l.csv line 6" in faces[4].detail and "left" in faces[5].detail


def test_missing_columns_are_named_with_those_found(tmp_path):
    (tmp_path / "l.csv").write_text(HEADER_21.replace("x7,y7", "a7,b7") + "\n")
    with pytest.raises(SourceError, match=r"l.csv: lacks the columns x7, y7; found file, yaw_deg"):
        wild_csv_faces(tmp_path)
    (tmp_path / "l.csv").write_text("photo,left,right\n")
    with pytest.raises(SourceError, match="lacks the columns file, x0, y0, .*found photo, left"):
        wild_csv_faces(tmp_path)
    (tmp_path / "l.csv").write_text(HEADER_21.replace(",visible20", "") + "\n")
    with pytest.raises(SourceError, match="lacks the columns visible20"):
        wild_csv_faces(tmp_path)


def test_missing_or_ambiguous_tables_are_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such folder"):
        wild_csv_faces(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="found none; name it with --landmarks"):
        wild_csv_faces(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(SourceError, match="found a.csv, b.csv"):
        wild_csv_faces(tmp_path)
    with pytest.raises(SourceError, match="a.csv: is empty"):
        wild_csv_faces(tmp_path, csv_path=tmp_path / "a.csv")


UMD_HEADER = [
    "SUBJECT_ID",
    "FILE",
    "ULTRA_SCORE",
    "OTHER_SCORE",
    "FACE_X",
    "FACE_Y",
    "FACE_WIDTH",
    "FACE_HEIGHT",
    "YAW",
    "PITCH",
    "ROLL",
    *[f"{p}{k}{a}" for k in range(1, 22) for p, a in (("P", "X"), ("P", "Y"), ("VIS", ""))],
    "PR_MALE",
    "PR_FEMALE",
]


def write_umd_batch(root, number, rows, header=UMD_HEADER):
    batch = root / f"umdfaces_batch{number}"
    batch.mkdir(parents=True)
    lines = [",".join(header)]
    for file, box, points, seen in rows:
        write_image(batch / file, 300)
        marks = np.concatenate([points, np.asarray(seen, float)[:, None]], axis=1).ravel()
        lines.append(",".join(map(str, [7, file, 0.9, 0.8, *box, 12.5, 0, 0, *marks, 0.5, 0.5])))
    (batch / f"umdfaces_batch{number}_ultraface.csv").write_text("\n".join(lines) + "\n")


def test_umdfaces_batches_are_read_by_column_name(tmp_path):
    assert len(UMD_HEADER) == 76
    points = np.random.default_rng(1).uniform(80, 220, (21, 2)).round(3)
    seen = np.where(np.arange(21) % 4 == 0, 0.02, 0.97)
    write_umd_batch(tmp_path, 1, [("aaron/a.jpg", (80, 70, 140, 160), points, seen)])
    write_umd_batch(tmp_path, 2, [("zoe/b.jpg", (0, 0, 0, 0), points, np.ones(21))])
    first, second = read_all(umdfaces(tmp_path))
    assert first["name"] == "umdfaces_batch1/aaron/a.jpg" and first["yaw_deg"] == 12.5
    visible = seen[heatmap.INDICES_OF_21] > 0.5
    np.testing.assert_array_equal(first["visible"], visible)
    side = 1.58 * 150
    corner = np.array([150, 150 + 0.14 * 150]) - side / 2
    # The box counts edges of pixels, the landmarks centres.
    expected = (points[heatmap.INDICES_OF_21] + 0.5 - corner) * 120 / side - 0.5
    np.testing.assert_allclose(first["landmarks"][visible], expected[visible], atol=1e-3)
    np.testing.assert_array_equal(first["jaw_visible"], seen[[12, 16, 20]] > 0.5)
    assert second["visible"].all() and (np.abs(second["landmarks"] - 60) < 60).all()
    # Placed by the 18 landmarks alone, wherever ears and chin are.
    scale = np.ptp(second["landmarks"], axis=0) / np.ptp(points[heatmap.INDICES_OF_21], axis=0)
    shift = second["landmarks"] - scale * points[heatmap.INDICES_OF_21]
    np.testing.assert_allclose(second["jaw"], scale * points[[12, 16, 20]] + shift[0], atol=1e-3)
    assert len(read_all(umdfaces(tmp_path / "umdfaces_batch2"))) == 1


def test_umdfaces_with_missing_columns_or_tables_are_errors(tmp_path):
    with pytest.raises(SourceError, match="no umdfaces_batch"):
        umdfaces(tmp_path)
    write_umd_batch(tmp_path, 1, [], header=[name for name in UMD_HEADER if name != "VIS3"])
    with pytest.raises(SourceError, match="lacks the columns VIS3; found SUBJECT_ID, FILE"):
        umdfaces(tmp_path)


@pytest.mark.parametrize("form", ["csv", "csv with header", "npz"])
def test_detections_are_read_in_every_form(tmp_path, form):
    points = np.random.default_rng(0).uniform(0, 120, (2, 68, 2)).round(2)
    points[1] = np.nan
    if form == "npz":
        path = tmp_path / "d.npz"
        np.savez(path, name=np.array(["a.jpg", "b.jpg"]), landmarks=points)
    else:
        path = tmp_path / "d.csv"
        lines = ["name," + ",".join(f"x{k},y{k}" for k in range(68))] if "header" in form else []
        lines += ["a.jpg," + ",".join(map(str, points[0].ravel())), "b.jpg" + "," * 136]
        path.write_text("\n".join(lines))
    names, landmarks = read_detections(path)
    assert names == ["a.jpg", "b.jpg"]
    np.testing.assert_allclose(landmarks, points, atol=1e-4)
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    face, skip = read_all(detection_faces(tmp_path))
    np.testing.assert_allclose(face["landmarks"], to_18_landmarks(points[0], np.ones(68))[0], atol=1e-4)
    assert "jaw" not in face
    assert isinstance(skip, Skip) and skip.reason == "no landmarks"


def test_detection_files_of_another_form_are_named(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a.jpg,1,2,3\n")
    with pytest.raises(SourceError, match="lines have 4 columns, expected 137"):
        read_detections(path)
    np.savez(tmp_path / "d.npz", name=np.array(["a"]), points=np.zeros((1, 68, 2)))
    with pytest.raises(SourceError, match="needs `name` and `landmarks`, holds name, points"):
        read_detections(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", name=np.array([{}]), landmarks=np.zeros((1, 68, 2)))
    with pytest.raises(SourceError, match="e.npz: not a readable"):
        read_detections(tmp_path / "e.npz")


@needs_data
def test_real_aflw_crops_are_read_upright():
    source = wild_csv_faces(pathlib.Path(os.environ["TWODAL_DATA_DIR"]) / "aflw_wild")
    faces = list(source.faces(0, 300))
    assert len(source) == 10_000 and source.margin == 0
    assert all(isinstance(face, dict) for face in faces)
    landmarks = np.stack([face["landmarks"] for face in faces])
    visible = np.stack([face["visible"] for face in faces]) > 0
    both = visible[:, 7] & visible[:, 16]
    assert (landmarks[both, 16, 1] > landmarks[both, 7, 1]).mean() > 0.98  # mouth below left eye
    eyes = visible[:, 7] & visible[:, 10]
    assert (landmarks[eyes, 10, 0] > landmarks[eyes, 7, 0]).mean() > 0.98
    jaw, jaw_visible = (np.stack([face[name] for face in faces]) for name in ("jaw", "jaw_visible"))
    left, right, chin = (jaw_visible > 0).T
    assert (jaw[left & right, 0, 0] < jaw[left & right, 1, 0]).all() and (left & right).sum() > 20
    both = chin & visible[:, 16]
    assert (jaw[both, 2, 1] > landmarks[both, 16, 1]).mean() > 0.98  # chin below the mouth


def test_a_stray_quote_or_an_endless_name_costs_its_own_row_alone(tmp_path):
    points = np.full((21, 2), 60.0)
    for name in ("a.jpg", "c.jpg", "e.jpg"):
        write_image(tmp_path / name)
    names = ["a.jpg", '"b.jpg', "c.jpg", "d" * 300 + ".jpg", "e.jpg"]
    lines = [line_21(name, points, np.ones(21)) for name in names]
    (tmp_path / "l.csv").write_text("\n".join([HEADER_21, *lines]) + "\n")
    found = read_all(wild_csv_faces(tmp_path))
    assert [face["name"] for face in found if not isinstance(face, Skip)] == ["a.jpg", "c.jpg", "e.jpg"]
    assert [face.reason for face in found if isinstance(face, Skip)] == ["broken line in the table", "image not found"]
    assert "line 3" in found[1].detail


def test_a_byte_order_mark_does_not_hide_the_first_face_of_a_detections_file(tmp_path):
    rows = [f"{name},{','.join(['60'] * 136)}" for name in ("a.jpg", "b.jpg")]
    (tmp_path / "d.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    assert read_detections(tmp_path / "d.csv")[0] == ["a.jpg", "b.jpg"]


def test_a_broken_line_of_a_detections_file_has_no_landmarks_and_the_others_have(tmp_path):
    rows = [f"{name},{','.join(['60'] * 136)}" for name in ("a.jpg", '"b.jpg', "c.jpg")]
    (tmp_path / "d.csv").write_text("\n".join(rows))
    names, landmarks = read_detections(tmp_path / "d.csv")
    assert names == ["a.jpg", "", "c.jpg"]
    np.testing.assert_array_equal(np.isfinite(landmarks).all(axis=(1, 2)), [True, False, True])


def test_the_fingerprint_changes_with_the_yaw(tmp_path):
    write_image(tmp_path / "a.jpg")
    prints = []
    for yaw in (5, 6):
        (tmp_path / "l.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', np.full((21, 2), 60.0), np.ones(21), yaw)}\n")
        prints.append(wild_csv_faces(tmp_path).fingerprint())
    assert prints[0] != prints[1]


def test_points_that_count_from_1_are_brought_to_this_programs_pixels(tmp_path):
    points = np.random.default_rng(1).uniform(5, 115, (21, 2)).round(2)
    write_image(tmp_path / "a.jpg")
    (tmp_path / "l.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', points, np.ones(21))}\n")
    (face,) = read_all(wild_csv_faces(tmp_path, pixel_origin=1.0))
    np.testing.assert_allclose(face["landmarks"], points[heatmap.INDICES_OF_21] - 1.0, atol=1e-5)
    np.testing.assert_allclose(face["jaw"], points[heatmap.JAW_OF_21] - 1.0, atol=1e-5)
