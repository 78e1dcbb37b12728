"""Names in tables stay below their root: unsafe ones are skipped and counted, the others are read."""

import csv
import json

import cv2
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
from data_pipelines.test_sets import aflw2000
from data_pipelines.test_sets.aflw_lfpa import read_aflw
from tests.helpers_face_files import photo, read_all, tiny_model, write_pair
from twodal_jax.io.images import SkipFace

BAD_NAMES = (
    *("../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "..\\secret.jpg", "C:\\secret.jpg", "a\0.jpg"),
    *("\\\\host\\share\\a.jpg", "//host/a.jpg", "..", "/", "images/../../x.jpg"),
)
NAMES = [*BAD_NAMES, "link.jpg", "folder/secret.jpg", "linked/inside.jpg", "good_link.jpg"]
EXPECTED = [safe_paths.UNSAFE] * (len(BAD_NAMES) + 2) + ["read"] * 2


@pytest.fixture()
def root(tmp_path):
    """A folder with symbolic links, two of which lead out of it."""
    for name in ("secret.jpg", "root/linked/inside.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), photo(120))
    root = tmp_path / "root"
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path)
    (root / "good_link.jpg").symlink_to("linked/inside.jpg")
    return root


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(SkipFace) as error:
        safe_paths.joined(tmp_path, name)
    assert error.value.reason == safe_paths.UNSAFE and "\0" not in error.value.detail


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a\\b.jpg", "..a/b..jpg", "ä ö/…jpg", "./a.jpg", "a//b.jpg"])
def test_names_that_stay_inside_are_joined(tmp_path, name):
    assert safe_paths.joined(tmp_path, name) == tmp_path / name.replace("\\", "/")


def reasons(source):
    return [face.reason if isinstance(face, Skip) else "read" for face in read_all(source)]


def write_csv(path, count):
    """A table of NAMES with `count` landmarks each."""
    points = np.random.default_rng(0).uniform(20, 100, 2 * count).round(1)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *(f"{axis}{k}" for k in range(count) for axis in "xy")])
        writer.writerows([name, *points] for name in NAMES)


@pytest.mark.parametrize("read, count", [(wild_csv_faces, 21), (detection_faces, 68)])
def test_tables_read_only_below_their_folder(root, read, count):
    write_csv(root / "l.csv", count)
    assert reasons(read(root)) == EXPECTED
    linked_root = root.parent / "other_name"
    linked_root.symlink_to(root)
    assert reasons(read(linked_root)) == EXPECTED


def test_aflw_reads_only_below_its_folder(root):
    write_csv(root / "landmarks21.csv", 21)
    truth, problems = read_aflw(root)
    assert truth.keys == ["link", "folder/secret", "linked/inside", "good_link"]
    assert sum("unsafe path" in problem for problem in problems) == min(10, len(BAD_NAMES))


def test_umdfaces_counts_unsafe_names_and_prepares_the_other_faces(tmp_path):
    write_umdfaces(tmp_path / "umd", 30)
    table = tmp_path / "umd" / "umdfaces_batch1" / "umdfaces_batch1_ultraface.csv"
    text = table.read_text()
    for row, name in enumerate(BAD_NAMES[:6]):
        text = text.replace(f"s0/face{row:04d}.jpg", name)
    table.write_text(text)
    summary = prepare.prepare(umdfaces(tmp_path / "umd"), tmp_path / "out", format="arrays", max_skipped=0.2)
    assert summary.reasons == {safe_paths.UNSAFE: 6} and summary.count == 24
    skipped = (tmp_path / "out" / "skipped.csv").read_text()
    assert "\0" not in skipped and skipped.count("\n") == 7
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["skipped"] == {safe_paths.UNSAFE: 6}
    assert prepared_dataset.verify(tmp_path / "out").count == 24


def test_links_out_of_a_folder_of_mat_files_are_refused(tmp_path):
    model = tiny_model()
    write_pair(tmp_path / "in", "a", model)
    write_pair(tmp_path / "outside", "b", model)
    for suffix in (".jpg", ".mat"):
        (tmp_path / "in" / f"b{suffix}").symlink_to(tmp_path / "outside" / f"b{suffix}")
    assert reasons(MatFaces(tmp_path / "in")) == ["read", safe_paths.UNSAFE]


@pytest.mark.parametrize("damage", [b'\n"never closed' + b"x" * 200_000, b"\n\0\0\0,\0", b'\na.jpg,"1\n"2'])
def test_broken_tables_give_a_message_or_skipped_lines(tmp_path, damage):
    header = "file," + ",".join(f"x{k},y{k}" for k in range(21))
    (tmp_path / "l.csv").write_bytes(header.encode() + damage)
    try:
        skips = reasons(wild_csv_faces(tmp_path, ready=True))
        assert len(skips) == damage.count(b"\n") and set(skips) == {"broken line in the table"}
    except SourceError as error:
        assert "l.csv line" in str(error)


def add_mac_files(folder, *names):
    for name in ("._a.jpg", "._a.mat", "__MACOSX/a.jpg", "__MACOSX/a.mat", *names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7" * 40)


def test_files_that_macos_adds_are_ignored_with_a_count(tmp_path):
    write_pair(tmp_path / "mat", "a", tiny_model())
    add_mac_files(tmp_path / "mat")
    source = MatFaces(tmp_path / "mat")
    assert source.stems == ["a"] and source.notes[0].startswith("ignored 4 file(s) that macOS adds")
    truth, problems = aflw2000.read_ground_truth(tmp_path / "mat")
    assert truth.keys == ["a"] and "ignored 4 file(s)" in problems[-1]

    write_umdfaces(tmp_path / "umd", 3)
    (batch,) = tmp_path.glob("umd/*_batch*/")
    before = umdfaces(tmp_path / "umd")
    add_mac_files(tmp_path / "umd", f"{batch.name}/._umdfaces_batch1_ultraface.csv")
    source = umdfaces(tmp_path / "umd")
    assert source.fingerprint() == before.fingerprint() and "file(s) that macOS adds" in source.notes[0]


def test_rows_of_files_that_macos_adds_are_expected_skips(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), photo(120))
    points = ",".join(map(str, np.random.default_rng(0).uniform(30, 90, 136).round(1)))
    names = ["a.jpg", "._a.jpg", "__MACOSX/._a.jpg", "sub/__MACOSX/a.jpg"]
    (tmp_path / "marks.csv").write_text("".join(f"{name},{points}\n" for name in names))
    add_mac_files(tmp_path, "._marks.csv")
    source = detection_faces(tmp_path)
    assert "ignored 4 file(s)" in source.notes[0]
    faces = read_all(source)
    assert [face.reason if isinstance(face, Skip) else "read" for face in faces] == ["read"] + [safe_paths.MAC_FILE] * 3
    assert prepare.prepare(source, tmp_path / "out", format="arrays").count == 1
