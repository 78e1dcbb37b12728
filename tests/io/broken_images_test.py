"""Preparation with broken images: they are counted and skipped; too many stop it, and it can be continued."""

import collections
import csv
import pathlib

import cv2
import numpy as np
import pytest
from helpers_umdfaces import write_umdfaces

from data_pipelines.loading import loader
from data_pipelines.preparation import prepare
from data_pipelines.preparation.prepare import TooManySkips
from data_pipelines.sources.base import SourceError
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.storage import prepared_dataset
from scripts import prepare_data
from tests.helpers_face_files import photo

COUNT = 400


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_broken_images_are_counted_and_the_others_unchanged(tmp_path, format):
    write_umdfaces(tmp_path / "good", COUNT)
    broken = sorted(np.random.default_rng(1).choice(COUNT, COUNT // 100, replace=False).tolist())
    reasons = write_umdfaces(tmp_path / "UMD", COUNT, broken=broken)
    (tmp_path / "good").rename(tmp_path / "good_UMD")
    whole = prepare.prepare(umdfaces(tmp_path / "good_UMD"), tmp_path / "whole", format=format, shards=4)
    summary = prepare.prepare(umdfaces(tmp_path / "UMD"), tmp_path / "out", format=format, shards=4)
    assert (whole.count, summary.count) == (COUNT, COUNT - 4)
    assert summary.reasons == collections.Counter(reasons.values())
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        assert {row["name"]: row["reason"] for row in csv.DictReader(file)} == reasons
    kept = np.setdiff1d(np.arange(COUNT), broken)
    expected = loader.read_rows(prepared_dataset.open_prepared(tmp_path / "whole"), kept)
    found = loader.read_rows(prepared_dataset.open_prepared(tmp_path / "out"), np.arange(COUNT - 4))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


BROKEN = tuple(range(5, 200, 13))  # 15 of 200: more than 5 %


def command(tmp_path, *options):
    folders = [f"--input={tmp_path / 'UMD'}", f"--output={tmp_path / 'out'}"]
    return prepare_data.main(["umdfaces", *folders, "--format=arrays", "--shards=10", "--workers=1", *options])


def finished(tmp_path):
    return {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.partial").glob("unit-*/done.json")}


def test_more_than_five_per_cent_of_broken_images_stop_and_ten_are_named(tmp_path, capsys):
    reasons = write_umdfaces(tmp_path / "UMD", 200, broken=BROKEN)
    assert command(tmp_path) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: umdfaces:UMD: 11 of 140 faces could not be read, more than 5.0% of")
    assert [line.split(": ")[0].strip() for line in told[1:11]] == list(reasons)[:10]
    assert [line.split(": ")[1] for line in told[1:11]] == list(reasons.values())[:10]
    assert len(told) == 12 and "the same command then goes on" in told[11] and not (tmp_path / "out").exists()


def test_a_higher_limit_continues_from_the_finished_parts(tmp_path, capsys):
    write_umdfaces(tmp_path / "UMD", 200, broken=BROKEN)
    assert command(tmp_path) == 1
    kept = finished(tmp_path)
    assert len(kept) == 7
    assert command(tmp_path) == 1 and finished(tmp_path) == kept
    assert command(tmp_path, "--max_skipped=0.074") == 1
    assert finished(tmp_path).items() > kept.items()
    assert command(tmp_path, "--max_skipped=0.075") == 0
    assert "185 faces, 15 skipped" in capsys.readouterr().out


def test_a_repaired_source_continues_with_the_same_result_as_without_errors(tmp_path):
    write_umdfaces(tmp_path / "UMD", 200, broken=BROKEN)
    assert command(tmp_path) == 1
    kept = finished(tmp_path)
    for row in BROKEN:
        path = tmp_path / "UMD" / "umdfaces_batch1" / f"s{row // 10}" / f"face{row:04d}.jpg"
        path.write_bytes(cv2.imencode(".jpg", photo(150, row))[1].tobytes())
    assert command(tmp_path) == 0
    assert len(kept) == 7
    prepare.prepare(umdfaces(tmp_path / "UMD"), tmp_path / "at_once", format="arrays", shards=10)
    for path in (tmp_path / "at_once").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_faces_without_landmarks_do_not_count_as_broken_images(tmp_path):
    write_umdfaces(tmp_path / "UMD", 10)
    table = next(pathlib.Path(tmp_path / "UMD").glob("*/*.csv"))
    lines = table.read_text().splitlines()
    lines[1:9] = [line.replace(",1.0", ",0.0") for line in lines[1:9]]
    table.write_text("\n".join(lines))
    summary = prepare.prepare(umdfaces(tmp_path / "UMD"), tmp_path / "out", format="arrays", max_skipped=0)
    assert summary.reasons == {"no landmarks": 8} and summary.count == 2


def test_a_set_without_a_readable_face_is_an_error(tmp_path):
    write_umdfaces(tmp_path / "UMD", 3, broken=(0, 1, 2))
    with pytest.raises(SourceError, match="none of 3 faces could be used") as error:
        prepare.prepare(umdfaces(tmp_path / "UMD"), tmp_path / "out")
    assert not isinstance(error.value, TooManySkips)
