"""In-the-wild readers: 21, 68 and 18 points, UMDFaces and detections; missing columns are named."""

import os
import pathlib

import cv2
import numpy as np
import pytest
from helpers_umdfaces import HEADER as UMD_HEADER, row_of, write_batch

from data_pipelines.sources.base import Skip, SourceError, to_18_landmarks
from data_pipelines.sources.detections import read_detections
from data_pipelines.sources.registry import open_source
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.sources.wild_csv import detection_faces, wild_csv_faces
from tests.helpers_face_files import photo, read_all
from twodal_jax.geometry import heatmap

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
HEADER_21 = "file,yaw_deg," + ",".join(f"x{k},y{k},visible{k}" for k in range(21))


def write_image(path, size=120, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), photo(size, seed))


def line_21(name, points, visible, yaw=5.0):
    cells = [f"{x},{y},{int(v)}" for (x, y), v in zip(points, visible)]
    return f"{name},{yaw}," + ",".join(cells)


def one_face(folder, points, visible, yaw=5.0, **options):
    """The source of a folder with one image and its 21 points, and its face or skip."""
    write_image(folder / "images" / "a.jpg")
    (folder / "l.csv").write_text(f"{HEADER_21}\n{line_21('a.jpg', points, visible, yaw)}\n")
    source = wild_csv_faces(folder, **options)
    return source, *read_all(source)


def test_21_points_give_the_18_landmarks_and_the_jaw_with_their_visibility(tmp_path):
    points = np.random.default_rng(0).uniform(5, 115, (21, 2)).round(2)
    visible = np.arange(21) % 3 > 0
    source, face = one_face(tmp_path, points, visible, -40)
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
    _, face = one_face(tmp_path, points, np.ones(21))
    np.testing.assert_array_equal(face["visible"], [0, 0, 0] + [1] * 15)
    np.testing.assert_array_equal(face["jaw_visible"], [1, 1, 1])


def test_a_missing_chin_and_hidden_ears_affect_the_jaw_alone(tmp_path):
    points = np.full((21, 2), 50.0).astype(object)
    points[20] = ["", "nan"]
    visible = np.ones(21)
    visible[[12, 16]] = 0
    _, face = one_face(tmp_path, points, visible)
    assert face["visible"].all() and not face["jaw_visible"].any() and not face["jaw"].any()


def test_a_face_with_only_its_chin_visible_is_skipped(tmp_path):
    _, skip = one_face(tmp_path, np.full((21, 2), 50.0), np.arange(21) == 20)
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
    # Boxes are in coordinates of pixel edges, landmarks in those of pixel centres.
    expected = (to_18_landmarks(points, np.ones(68))[0] + 0.5 - (low + high) / 2) / scale + 60 - 0.5
    np.testing.assert_allclose(face["landmarks"], expected, atol=1e-3)


def test_bad_lines_and_images_are_skipped_and_the_others_read(tmp_path):
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
    for header, message in (
        (HEADER_21.replace("x7,y7", "a7,b7"), r"l.csv: lacks the columns x7, y7; found file, yaw_deg"),
        ("photo,left,right", "lacks the columns file, x0, y0, .*found photo, left"),
        (HEADER_21.replace(",visible20", ""), "lacks the columns visible20"),
    ):
        (tmp_path / "l.csv").write_text(header + "\n")
        with pytest.raises(SourceError, match=message):
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


def test_umdfaces_batches_are_read_by_column_name(tmp_path):
    header = ["ULTRA_SCORE", *UMD_HEADER[4:], "PITCH", *UMD_HEADER[:4], "PR_MALE"]
    points = np.random.default_rng(1).uniform(80, 220, (21, 2)).round(3)
    seen = np.where(np.arange(21) % 4 == 0, 0.02, 0.97)
    for number, file, box, visible in (
        (1, "aaron/a.jpg", (80, 70, 140, 160), seen),
        (2, "zoe/b.jpg", [0] * 4, np.ones(21)),
    ):
        batch = tmp_path / f"umdfaces_batch{number}"
        write_image(batch / file, 300)
        write_batch(batch, [row_of(file, box, 12.5, points, visible)], header)
    first, second = read_all(umdfaces(tmp_path))
    assert first["name"] == "umdfaces_batch1/aaron/a.jpg" and first["yaw_deg"] == 12.5
    visible = seen[heatmap.INDICES_OF_21] > 0.5
    np.testing.assert_array_equal(first["visible"], visible)
    side = 1.58 * 150
    corner = np.array([150, 150 + 0.14 * 150]) - side / 2
    # Boxes are in coordinates of pixel edges, landmarks in those of pixel centres.
    expected = (points[heatmap.INDICES_OF_21] + 0.5 - corner) * 120 / side - 0.5
    np.testing.assert_allclose(first["landmarks"][visible], expected[visible], atol=1e-3)
    np.testing.assert_array_equal(first["jaw_visible"], seen[[12, 16, 20]] > 0.5)
    assert second["visible"].all() and (np.abs(second["landmarks"] - 60) < 60).all()
    # The 18 landmarks alone place the crop; ears and chin do not matter.
    scale = np.ptp(second["landmarks"], axis=0) / np.ptp(points[heatmap.INDICES_OF_21], axis=0)
    shift = second["landmarks"] - scale * points[heatmap.INDICES_OF_21]
    np.testing.assert_allclose(second["jaw"], scale * points[[12, 16, 20]] + shift[0], atol=1e-3)
    assert len(read_all(umdfaces(tmp_path / "umdfaces_batch2"))) == 1


def test_umdfaces_with_missing_columns_or_tables_are_errors(tmp_path):
    with pytest.raises(SourceError, match="no umdfaces_batch"):
        umdfaces(tmp_path)
    write_batch(tmp_path / "umdfaces_batch1", [], header=[name for name in UMD_HEADER if name != "VIS3"])
    with pytest.raises(SourceError, match="lacks the columns VIS3; found SUBJECT_ID, FILE"):
        umdfaces(tmp_path)


@pytest.mark.parametrize("form", ["csv", "csv with header", "npz"])
def test_detections_are_read_from_every_format(tmp_path, form):
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


def test_detections_files_of_another_format_are_named(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a.jpg,1,2,3\n")
    with pytest.raises(SourceError, match="lines have 4 columns, expected 137"):
        read_detections(path)
    np.savez(tmp_path / "d.npz", name=np.array(["a"]), points=np.zeros((1, 68, 2)))
    with pytest.raises(SourceError, match="needs `name` and `landmarks`, has name, points"):
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


def test_only_the_row_with_a_stray_quote_or_a_too_long_name_is_skipped(tmp_path):
    points = np.full((21, 2), 60.0)
    for name in ("a.jpg", "c.jpg", "e.jpg"):
        write_image(tmp_path / name)
    names = ["a.jpg", '"b.jpg', "c.jpg", "d" * 300 + ".jpg", "e.jpg"]
    lines = [line_21(name, points, np.ones(21)) for name in names]
    (tmp_path / "l.csv").write_text("\n".join([HEADER_21, *lines]) + "\n")
    faces = read_all(wild_csv_faces(tmp_path))
    assert [face["name"] for face in faces if not isinstance(face, Skip)] == ["a.jpg", "c.jpg", "e.jpg"]
    assert [face.reason for face in faces if isinstance(face, Skip)] == ["broken line in the table", "image not found"]
    assert "line 3" in faces[1].detail


def test_only_the_broken_line_of_a_detections_file_has_no_landmarks_and_a_byte_order_mark_is_ignored(tmp_path):
    rows = [f"{name},{','.join(['60'] * 136)}" for name in ("a.jpg", '"b.jpg', "c.jpg")]
    (tmp_path / "d.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    names, landmarks = read_detections(tmp_path / "d.csv")
    assert names == ["a.jpg", "", "c.jpg"]
    np.testing.assert_array_equal(np.isfinite(landmarks).all(axis=(1, 2)), [True, False, True])


def test_the_fingerprint_depends_on_the_yaw(tmp_path):
    sources = [one_face(tmp_path, np.full((21, 2), 60.0), np.ones(21), yaw)[0] for yaw in (5, 6)]
    assert sources[0].fingerprint() != sources[1].fingerprint()


def test_the_pixel_origin_is_subtracted(tmp_path):
    points = np.random.default_rng(1).uniform(5, 115, (21, 2)).round(2)
    _, face = one_face(tmp_path, points, np.ones(21), pixel_origin=1.0)
    np.testing.assert_allclose(face["landmarks"], points[heatmap.INDICES_OF_21] - 1.0, atol=1e-5)
    np.testing.assert_allclose(face["jaw"], points[heatmap.JAW_OF_21] - 1.0, atol=1e-5)


def test_folders_between_commas_are_one_set_in_their_order(tmp_path):
    points = np.random.default_rng(1).uniform(5, 115, (21, 2)).round(2)
    names = []
    for folder, count in (("one", 2), ("two", 3)):
        rows = []
        for number in range(count):
            names.append(f"{folder}{number}.jpg")
            write_image(tmp_path / folder / "images" / names[-1])
            rows.append(line_21(names[-1], points + number, np.ones(21)))
        (tmp_path / folder / "l.csv").write_text("\n".join([HEADER_21, *rows]) + "\n")
    source = open_source("wild_csv", f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert len(source) == 5 and [face["name"] for face in source.faces(0, 99)] == names
    assert [face["name"] for face in source.faces(1, 3)] == names[1:3]
    assert source.fingerprint() != open_source("wild_csv", tmp_path / "one").fingerprint()
    assert source.notes == []
    (tmp_path / "two" / "._l.csv").write_bytes(b"x")
    (note,) = open_source("wild_csv", f"{tmp_path / 'one'},{tmp_path / 'two'}").notes
    assert note.startswith("wild_csv:two/l.csv: ignored 1 file(s)")
    with pytest.raises(SourceError, match="three: no such folder"):
        open_source("wild_csv", f"{tmp_path / 'one'},{tmp_path / 'three'}")
