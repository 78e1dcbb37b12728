"""The prepared folder: arrays come back as written; what is broken is named with its remedy."""

import json

import numpy as np
import pytest

from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from tests.helpers_face_files import wild_rows


def write(folder, count=5, source="test", **changes):
    return prepared_dataset.write_arrays(
        folder,
        kind="wild",
        arrays=wild_rows(count) | changes,
        source=source,
        skipped={"corrupt": 2},
        alpha_mean=np.zeros(62),
    )


def test_arrays_come_back_as_written_and_memory_mapped(tmp_path):
    opened = prepared_dataset.open_prepared(write(tmp_path / "set"), kind="wild")
    assert (opened.count, opened.kind, opened.format, opened.margin) == (5, "wild", "arrays", 0)
    for name, expected in wild_rows(5).items():
        np.testing.assert_array_equal(opened.arrays[name], expected)
    assert isinstance(opened.arrays["image"], np.memmap)
    assert opened.manifest["skipped"] == {"corrupt": 2}
    assert opened.manifest["alpha_mean"] == [0.0] * 62
    assert opened.fields["image"] == {"shape": [120, 120, 3], "dtype": "uint8"}


def test_annotated_folders_need_all_their_fields(tmp_path):
    with pytest.raises(PreparedError, match="alpha is missing; landmarks68 is missing; roi_box"):
        prepared_dataset.write_arrays(tmp_path / "set", kind="annotated", arrays=wild_rows(2), source="test")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("landmarks", np.zeros((5, 18, 2)), "landmarks is float64"),
        ("landmarks", np.zeros((5, 17, 2), np.float32), r"\[17, 2\], expected float32 \[18, 2\]"),
        ("image", np.zeros((5, 121, 121, 3), np.uint8), "121x121, expected square, 120"),
        ("visible", np.zeros((4, 18), np.float32), "same number of rows"),
    ],
)
def test_misshapen_fields_are_named_and_leave_no_folder(tmp_path, field, value, message):
    with pytest.raises(PreparedError, match=message):
        write(tmp_path / "set", **{field: value})
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_folder_of_the_same_source_is_replaced(tmp_path):
    write(tmp_path / "set", count=3)
    write(tmp_path / "set", count=4)
    assert prepared_dataset.open_prepared(tmp_path / "set").count == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_folders_with_other_content_are_not_replaced(tmp_path):
    for name, file, text, message in (
        ("mine", "thesis.tex", "words", "holds other files"),
        ("app", "manifest.json", '{"name": "my app"}', "not the manifest of a prepared data set"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
        with pytest.raises(PreparedError, match=message):
            write(tmp_path / name)
        assert (tmp_path / name / file).read_text() == text
    write(tmp_path / "set")
    with pytest.raises(PreparedError, match="holds another prepared set .wild faces, test, 5 faces."):
        write(tmp_path / "set", count=2, source="something else")
    assert prepared_dataset.open_prepared(tmp_path / "set").count == 5
    (tmp_path / "set" / "notes.txt").write_text("words")
    with pytest.raises(PreparedError, match="do not belong to its prepared data set .notes.txt."):
        write(tmp_path / "set")
    assert (tmp_path / "set" / "notes.txt").is_file()


def test_a_failed_write_keeps_the_old_folder(tmp_path, monkeypatch):
    write(tmp_path / "set", count=3)
    monkeypatch.setattr(prepared_dataset, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "set", count=4)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert prepared_dataset.open_prepared(tmp_path / "set").count == 3


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "not a JSON object"),
        (lambda f: (f / "manifest.json").write_text("[" * 200_000), "not valid JSON"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda f: edit(f, version=2), "version 2"),
        (lambda f: edit(f, kind="tame"), "unknown kind"),
        (lambda f: edit(f, count=0), "holds no faces"),
        (lambda f: edit(f, count="5"), "lacks count"),
        (lambda f: edit(f, fields={"image": 3}), "lack shape or dtype"),
        (lambda f: edit(f, files=[]), "lacks files"),
        (lambda f: edit(f, files={"image.npy": 3}), "files lack bytes or sha256"),
        (lambda f: edit(f, files={"../x": {"bytes": 1, "sha256": ""}}), "files lack bytes or sha256"),
        (lambda f: edit(f, count=6), r"the manifest lists"),
        (lambda f: (f / "visible.npy").unlink(), "visible.npy: missing"),
        (lambda f: (f / "visible.npy").write_bytes(b"junk"), "visible.npy: not a readable"),
        (lambda f: (f / "visible.npy").write_bytes(b""), "visible.npy: not a readable"),
        (lambda f: np.save(f / "visible.npy", np.zeros((5, 17), np.float32)), r"\[5, 17\]"),
        (lambda f: np.save(f / "visible.npy", np.array([{}] * 5)), "visible.npy: not a readable"),
        (lambda f: edit(f, format="array_record"), "shards missing"),
    ],
)
def test_broken_folders_are_named_with_the_command_that_prepares_them(tmp_path, damage, message):
    folder = write(tmp_path / "set")
    damage(folder)
    with pytest.raises(PreparedError, match=message) as error:
        prepared_dataset.open_prepared(folder)
    assert str(folder) in str(error.value)
    assert "scripts.prepare_data" in str(error.value)


def test_a_missing_folder_and_a_wrong_kind_are_named(tmp_path):
    with pytest.raises(PreparedError, match="no such folder; prepare it with: python -m scripts"):
        prepared_dataset.open_prepared(tmp_path / "nothing")
    with pytest.raises(PreparedError, match="holds 'wild' faces, 'annotated' ones are needed"):
        prepared_dataset.open_prepared(write(tmp_path / "set"), kind="annotated")
