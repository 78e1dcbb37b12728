"""The prepared folder: what is written is opened, what is broken is named."""

import json

import numpy as np
import pytest

from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from tests.helpers_face_files import wild_rows


def write(folder, count=5, **changes):
    return prepared_dataset.write_arrays(
        folder,
        kind="wild",
        arrays=wild_rows(count) | changes,
        source="test",
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
def test_misshapen_fields_are_named_and_nothing_is_left(tmp_path, field, value, message):
    with pytest.raises(PreparedError, match=message):
        write(tmp_path / "set", **{field: value})
    assert list(tmp_path.iterdir()) == []


def test_an_older_prepared_folder_is_replaced_but_other_files_are_not(tmp_path):
    write(tmp_path / "set", count=3)
    write(tmp_path / "set", count=4)
    assert prepared_dataset.open_prepared(tmp_path / "set").count == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    with pytest.raises(PreparedError, match="holds other files"):
        write(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "words"


def test_a_failed_write_leaves_the_old_folder(tmp_path, monkeypatch):
    write(tmp_path / "set", count=3)
    monkeypatch.setattr(prepared_dataset, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "set", count=4)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert prepared_dataset.open_prepared(tmp_path / "set").count == 3


def _edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "not a JSON object"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda f: _edit(f, version=2), "version 2"),
        (lambda f: _edit(f, kind="tame"), "unknown kind"),
        (lambda f: _edit(f, count=0), "holds no faces"),
        (lambda f: _edit(f, count="5"), "lacks count"),
        (lambda f: _edit(f, fields={"image": 3}), "lack shape or dtype"),
        (lambda f: _edit(f, count=6), r"the manifest says"),
        (lambda f: (f / "visible.npy").unlink(), "visible.npy: missing"),
        (lambda f: (f / "visible.npy").write_bytes(b"junk"), "visible.npy: not a readable"),
        (lambda f: (f / "visible.npy").write_bytes(b""), "visible.npy: not a readable"),
        (lambda f: np.save(f / "visible.npy", np.zeros((5, 17), np.float32)), r"\[5, 17\]"),
        (lambda f: np.save(f / "visible.npy", np.array([{}] * 5)), "visible.npy: not a readable"),
        (lambda f: _edit(f, format="array_record"), "shards missing"),
    ],
)
def test_broken_folders_are_named_with_the_command_that_helps(tmp_path, damage, message):
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


def test_a_set_of_another_kind_or_source_is_not_replaced(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(PreparedError, match="holds another prepared set .wild faces, test, 5 faces."):
        prepared_dataset.write_arrays(tmp_path / "set", kind="wild", arrays=wild_rows(2), source="something else")
    assert prepared_dataset.open_prepared(tmp_path / "set").count == 5


def test_a_folder_with_a_manifest_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "app" / "src").mkdir(parents=True)
    (tmp_path / "app" / "manifest.json").write_text('{"name": "my app"}')
    with pytest.raises(PreparedError, match="not that of a prepared data set"):
        write(tmp_path / "app")
    write(tmp_path / "set")
    (tmp_path / "set" / "notes.txt").write_text("words")
    with pytest.raises(PreparedError, match="none of its prepared data set's .notes.txt."):
        write(tmp_path / "set")
    assert (tmp_path / "app" / "src").is_dir() and (tmp_path / "set" / "notes.txt").is_file()


def test_a_manifest_nested_without_end_is_one_message(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(PreparedError, match="not valid JSON"):
        prepared_dataset.open_prepared(tmp_path / "set")
