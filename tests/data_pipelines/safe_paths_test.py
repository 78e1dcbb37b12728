"""Names in tables stay below their root: refused by line, counted, and the rest goes on."""

import csv
import json

import numpy as np
import pytest
from helpers_umdfaces import write_umdfaces

from data_pipelines.preparation import prepare
from data_pipelines.sources import safe_paths
from data_pipelines.sources.base import Skip, SourceError
from data_pipelines.sources.mat_300w_lp import MatFaces
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.sources.wild_csv import detection_faces, wild_csv_faces
from data_pipelines.storage import prepared_dataset
from data_pipelines.test_sets.aflw_lfpa import read_aflw
from tests.helpers_face_files import photo, tiny_model, write_pair
from twodal_jax.io.images import SkipFace

BAD_NAMES = (
    "../secret.jpg",
    "/etc/passwd",
    "a/../../secret.jpg",
    "..\\secret.jpg",
    "C:\\secret.jpg",
    "a\0.jpg",
    "\\\\host\\share\\a.jpg",
    "//host/a.jpg",
    "..",
    "/",
    "images/../../x.jpg",
)


@pytest.fixture()
def secret(tmp_path):
    import cv2

    for name in ("secret.jpg", "root/linked/inside.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), photo(120))
    (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    (tmp_path / "root" / "good_link.jpg").symlink_to("linked/inside.jpg")
    return tmp_path / "root"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(SkipFace) as error:
        safe_paths.joined(tmp_path, name)
    assert error.value.reason == safe_paths.UNSAFE and "\0" not in error.value.detail


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a\\b.jpg", "..a/b..jpg", "ä ö/…jpg", "./a.jpg", "a//b.jpg"])
def test_names_that_stay_are_joined(tmp_path, name):
    assert safe_paths.joined(tmp_path, name) == tmp_path / name.replace("\\", "/")


def reasons(source):
    found = list(source.faces(0, len(source)))
    return [face.reason if isinstance(face, Skip) else "read" for face in found]


NAMES = [*BAD_NAMES, "link.jpg", "folder/secret.jpg", "linked/inside.jpg", "good_link.jpg"]
EXPECTED = [safe_paths.UNSAFE] * (len(BAD_NAMES) + 2) + ["read"] * 2


def write_csv(path, header, names, numbers):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([name, *numbers] for name in names)


def test_a_table_of_landmarks_reads_only_below_its_folder(secret):
    points = np.random.default_rng(0).uniform(20, 100, 42).round(1)
    write_csv(secret / "l.csv", ["file", *(f"{a}{k}" for k in range(21) for a in "xy")], NAMES, points)
    assert reasons(wild_csv_faces(secret)) == EXPECTED
    linked_root = secret.parent / "other_name"
    linked_root.symlink_to(secret)
    assert reasons(wild_csv_faces(linked_root)) == EXPECTED


def test_detections_read_only_below_their_folder(secret):
    points = np.random.default_rng(0).uniform(20, 100, 136).round(1)
    write_csv(secret / "d.csv", ["file", *(f"{a}{k}" for k in range(68) for a in "xy")], NAMES, points)
    assert reasons(detection_faces(secret)) == EXPECTED


def test_the_aflw_benchmark_reads_only_below_its_folder(secret):
    points = np.random.default_rng(0).uniform(20, 100, 42).round(1)
    write_csv(secret / "landmarks21.csv", ["file", *(f"{a}{k}" for k in range(21) for a in "xy")], NAMES, points)
    truth, problems = read_aflw(secret)
    assert [key for key in truth.keys] == ["link", "folder/secret", "linked/inside", "good_link"]
    assert sum("unsafe path" in problem for problem in problems) == min(10, len(BAD_NAMES))


def test_umdfaces_counts_refused_names_and_prepares_the_rest(tmp_path):
    write_umdfaces(tmp_path / "umd", 30)
    table = tmp_path / "umd" / "umdfaces_batch1" / "umdfaces_batch1_ultraface.csv"
    text = table.read_text()
    for row, name in enumerate(BAD_NAMES[:6]):
        text = text.replace(f"s0/face{row:04d}.jpg", name)
    table.write_text(text)
    summary = prepare.prepare(umdfaces(tmp_path / "umd"), tmp_path / "out", format="arrays", max_skipped=0.2)
    assert summary.reasons == {safe_paths.UNSAFE: 6} and summary.count == 24
    listed = (tmp_path / "out" / "skipped.csv").read_text()
    assert "\0" not in listed and listed.count("\n") == 7
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["skipped"] == {safe_paths.UNSAFE: 6}
    assert prepared_dataset.verify(tmp_path / "out").count == 24


def test_links_in_a_folder_of_mat_files_stay_below_it(tmp_path):
    model = tiny_model()
    for name in ("in/a", "outside/b"):
        folder, _, stem = name.partition("/")
        write_pair(tmp_path / folder, stem, model)
    for suffix in (".jpg", ".mat"):
        (tmp_path / "in" / f"b{suffix}").symlink_to(tmp_path / "outside" / f"b{suffix}")
    assert reasons(MatFaces(tmp_path / "in")) == ["read", safe_paths.UNSAFE]


@pytest.mark.parametrize("damage", [b'\n"never closed' + b"x" * 200_000, b"\n\0\0\0,\0", b'\na.jpg,"1\n"2'])
def test_broken_tables_end_in_a_message_or_a_skipped_line(tmp_path, damage):
    header = "file," + ",".join(f"x{k},y{k}" for k in range(21))
    (tmp_path / "l.csv").write_bytes(header.encode() + damage)
    try:
        found = reasons(wild_csv_faces(tmp_path, ready=True))
        assert len(found) == damage.count(b"\n") and set(found) == {"broken line in the table"}
    except SourceError as error:
        assert "l.csv line" in str(error)
