"""scripts.prepare_data: resumes, skips and lists unreadable faces, and reports errors as one message."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from data_pipelines.preparation import prepare
from data_pipelines.sources.mat_300w_lp import MatFaces
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from scripts import prepare_data
from tests.helpers_face_files import file_contents, run_prepare_data, tiny_model, write_pair
from twodal_jax.face_models.load import save_morphable_model

MODEL = tiny_model()
ARRAYS = {"format": "arrays", "max_skipped": 0.25}


@pytest.fixture(scope="module")
def faces_folder(tmp_path_factory):
    """12 faces, 3 of them unreadable."""
    folder = tmp_path_factory.mktemp("faces")
    for seed in range(12):
        write_pair(folder, f"face{seed:02d}", MODEL, seed)
    write_pair(folder, "face03", MODEL, 3, Pose_Para=np.full((1, 7), np.nan))
    (folder / "face07.jpg").write_bytes(b"")
    (folder / "face08.jpg").write_bytes(b"")
    return folder


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_faces_are_prepared_and_skips_counted_and_listed(faces_folder, tmp_path, capsys, format):
    output = tmp_path / "out"
    flags = f"--format={format}", "--shards=3", "--max_skipped=0.25"
    assert run_prepare_data("mat", faces_folder, output, *flags) == 0
    printed = capsys.readouterr()
    assert "9 faces, 3 skipped" in printed.out
    assert "skipped face03: not finite" in printed.err and "face03.mat" in printed.err
    assert "2 skipped: empty image file" in printed.err
    opened = prepared_dataset.open_prepared(output, kind="annotated")
    assert opened.count == 9 and opened.margin == 20
    assert opened.manifest["skipped"] == {"empty image file": 2, "not finite": 1}
    with open(output / "skipped.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["face03", "face07", "face08"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if format == "arrays":
        alpha = np.asarray(opened.arrays["alpha"])
        np.testing.assert_allclose(opened.manifest["alpha_mean"], alpha.mean(0), rtol=1e-4)
        assert list(opened.arrays["name"][:4]) == ["face00", "face01", "face02", "face04"]
    else:
        assert len(opened.shards) == 3 and opened.shards[0].name == "data-00000-of-00003.array_record"


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_a_killed_run_continues_and_ends_with_the_same_bytes(faces_folder, tmp_path, format):
    options = {"format": format, "shards": 4, "max_skipped": 0.25}
    prepare.prepare(MatFaces(faces_folder), tmp_path / "whole", **options)
    program = textwrap.dedent(f"""
        import os, signal
        from data_pipelines.preparation import prepare
        from data_pipelines.sources.mat_300w_lp import MatFaces

        def die(done, total):
            if done == 8:
                os.kill(os.getpid(), signal.SIGKILL)

        prepare.prepare(MatFaces({str(faces_folder)!r}), {str(tmp_path / "cut")!r}, progress=die, **{options!r})
        """)
    killed = subprocess.run([sys.executable, "-c", program], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    assert len(list((tmp_path / ".cut.partial").glob("unit-*/done.json"))) == 2
    read = []
    source = MatFaces(faces_folder)
    faces = source.faces
    source.faces = lambda start, stop: read.append((start, stop)) or faces(start, stop)
    prepare.prepare(source, tmp_path / "cut", **options)
    assert read == [(3, 4), (6, 9), (9, 12)]  # the skipped face of a finished unit is tried again
    assert file_contents(tmp_path / "cut") == file_contents(tmp_path / "whole")
    assert not (tmp_path / ".cut.partial").exists()


def test_units_of_another_request_are_not_used(faces_folder, tmp_path):
    staging = tmp_path / ".out.partial"
    (staging / "unit-00000").mkdir(parents=True)
    (staging / "plan.json").write_text("{}")
    (staging / "unit-00000" / "done.json").write_text('{"count": 99, "skips": []}')
    assert prepare.prepare(MatFaces(faces_folder), tmp_path / "out", **ARRAYS).count == 9


def test_a_finished_folder_is_kept_and_another_request_refused(faces_folder, tmp_path, capsys):
    folder, output = shutil.copytree(faces_folder, tmp_path / "faces"), tmp_path / "out"
    boxes = {"name": np.array(["face01"]), "split": np.array(["train"])}
    flags = "--format=arrays", "--max_skipped=1"
    np.savez(folder / "annotations.npz", roi_box=np.float32([[0, 0, 200, 200]]), **boxes)
    assert run_prepare_data("mat", folder, output, *flags) == 0
    assert "nothing was done" not in capsys.readouterr().err
    before = file_contents(output)
    assert run_prepare_data("mat", folder, output, *flags) == 0
    assert "nothing was done" in capsys.readouterr().err
    assert run_prepare_data("mat", folder, output, *flags, "--limit=2") == 1
    assert "holds another prepared set" in capsys.readouterr().err
    assert prepare_data.main(["synthetic_wild", f"--output={output}", "--limit=2"]) == 1
    assert "holds another prepared set" in capsys.readouterr().err
    np.savez(folder / "annotations.npz", roi_box=np.float32([[9, 9, 200, 200]]), **boxes)
    assert run_prepare_data("mat", folder, output, *flags) == 1
    assert "when its listing was different" in capsys.readouterr().err
    assert file_contents(output) == before


def test_limit_margin_and_model_are_used(tmp_path):
    for seed in range(3):
        write_pair(tmp_path / "in", f"face{seed}", MODEL, seed, pt3d=False)
    save_morphable_model(tmp_path / "model.npz", MODEL)
    flags = "--format=arrays", "--limit=2", "--margin=4", f"--morphable_model={tmp_path / 'model.npz'}"
    assert run_prepare_data("mat", tmp_path / "in", tmp_path / "out", *flags) == 0
    opened = prepared_dataset.open_prepared(tmp_path / "out")
    assert opened.count == 2 and opened.image_size == 128


def test_errors_are_one_message_without_a_traceback(tmp_path, capsys):
    def error_of(source, folder, *flags, output=tmp_path / "out"):
        capsys.readouterr()
        assert run_prepare_data(source, folder, output, *flags) == 1
        message = capsys.readouterr().err
        assert message.startswith("error: ") and "Traceback" not in message
        assert len(message.strip().splitlines()) == 1
        return message

    for source in ("mat", "wild_csv", "umdfaces", "detections", "tfds_300w_lp"):
        assert "/no/such/place: no such folder" in error_of(source, "/no/such/place")
        assert "--input is missing" in error_of(source, "")
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild" / "l.csv").write_text("file,x0\n")
    message = error_of("wild_csv", tmp_path / "wild")
    assert "l.csv: lacks the columns y0, x1" in message and "found file, x0" in message
    write_pair(tmp_path / "bad", "face", MODEL, Pose_Para=None)
    message = error_of("mat", tmp_path / "bad")
    assert "none of 1 faces could be used: missing key (1)" in message and "face.mat" in message
    message = error_of("mat", tmp_path / "bad", "--morphable_model=/no/model")
    assert "/no/model: no such morphable model" in message
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    write_pair(tmp_path / "good", "face", MODEL)
    message = error_of("mat", tmp_path / "good", "--format=arrays", output=tmp_path / "mine")
    assert "holds other files" in message
    assert sorted(os.listdir(tmp_path)) == ["bad", "good", "mine", "wild"]


def test_the_manifest_has_no_absolute_path(faces_folder, tmp_path):
    prepare.prepare(MatFaces(faces_folder), tmp_path / "out", **ARRAYS)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_second_preparation_of_the_same_output_is_refused_while_one_runs(faces_folder, tmp_path):
    def engine(job, pending, monitor):
        with pytest.raises(PreparedError, match=rf"process {os.getpid()}.*--output"):
            prepare.prepare(MatFaces(faces_folder), tmp_path / "out", **ARRAYS)
        prepare.in_process(job, pending, monitor)

    summary = prepare.prepare(MatFaces(faces_folder), tmp_path / "out", **ARRAYS, engine=engine)
    assert summary.count == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
