"""The manifest's hashes: a changed byte in any file is named; a changed size is an error on opening."""

import json

import numpy as np
import pytest
from helpers_umdfaces import write_umdfaces

from data_pipelines.preparation import prepare
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from scripts import prepare_data
from tests.helpers_face_files import wild_rows


@pytest.fixture(params=["arrays", "array_record"])
def folder(tmp_path, request):
    write_umdfaces(tmp_path / "umd", 12)
    prepare.prepare(umdfaces(tmp_path / "umd"), tmp_path / "set", format=request.param, shards=2)
    return tmp_path / "set"


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_every_file_is_listed_and_a_changed_byte_in_any_is_named(folder, capsys):
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == names and "skipped.csv" in names
    assert prepare_data.main(["verify", f"--output={folder}"]) == 0
    assert f"12 faces, {len(names)} files as prepared" in capsys.readouterr().out
    for name in sorted(names):
        for place in (-1, (folder / name).stat().st_size // 2):
            flip(folder / name, place)
            assert prepare_data.main(["verify", f"--output={folder}"]) == 1
            message = capsys.readouterr().err
            assert message.startswith(f"error: {folder / name}: ") and message.count(str(folder)) <= 2
            flip(folder / name, place)
    assert prepare_data.main(["verify", f"--output={folder}"]) == 0


def test_a_changed_manifest_is_named(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"umdfaces:umd"', '"umdfaces:other"', 1))
    with pytest.raises(PreparedError, match="manifest.json: its content changed"):
        prepared_dataset.verify(folder)


def test_another_size_and_a_missing_file_are_errors_on_opening(folder):
    path = next(path for path in sorted(folder.iterdir()) if path.name.startswith(("data-", "yaw")))
    with open(path, "ab") as file:
        file.write(b"\0")
    with pytest.raises(PreparedError, match=rf"{path.name}: \d+ bytes, the manifest lists \d+; prepare it again"):
        prepared_dataset.open_prepared(folder)
    (folder / "skipped.csv").unlink()
    with pytest.raises(PreparedError, match="skipped.csv: missing"):
        prepared_dataset.open_prepared(folder)


def test_written_arrays_have_hashes_too(tmp_path):
    prepared_dataset.write_arrays(tmp_path / "set", kind="wild", arrays=wild_rows(3), source="test")
    assert prepared_dataset.verify(tmp_path / "set").count == 3
    np.save(tmp_path / "set" / "yaw_deg.npy", np.float32([0, 1, 3]))
    with pytest.raises(PreparedError, match="yaw_deg.npy: its content changed"):
        prepared_dataset.verify(tmp_path / "set")
