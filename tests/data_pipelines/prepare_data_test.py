"""scripts.prepare_data: resumable, skips and lists, one clear message for what cannot go on."""

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
from data_pipelines.preparation.prepare import in_process
from data_pipelines.sources.base import SourceError
from data_pipelines.sources.mat_300w_lp import MatFaces
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from scripts import prepare_data
from tests.helpers_face_files import tiny_model, write_pair
from twodal_jax.face_models.load import save_morphable_model

MODEL = tiny_model()


@pytest.fixture(scope="module")
def faces_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    for seed in range(12):
        write_pair(folder, f"face{seed:02d}", MODEL, seed)
    write_pair(folder, "face03", MODEL, 3, Pose_Para=np.full((1, 7), np.nan))
    (folder / "face07.jpg").write_bytes(b"")
    (folder / "face08.jpg").write_bytes(b"")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_faces_are_prepared_and_skips_counted_and_listed(faces_folder, tmp_path, capsys, format):
    output = tmp_path / "out"
    status = prepare_data.main(
        [
            "mat",
            f"--input={faces_folder}",
            f"--output={output}",
            f"--format={format}",
            "--shards=3",
            "--max_skipped=0.25",
        ]
    )
    printed = capsys.readouterr()
    assert status == 0
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

        prepare.prepare(MatFaces({str(faces_folder)!r}), {str(tmp_path / "cut")!r}, progress=die,
                        **{options!r})
        """)
    killed = subprocess.run([sys.executable, "-c", program], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    finished = sorted((tmp_path / ".cut.partial").glob("unit-*/done.json"))
    assert len(finished) == 2
    before = [path.stat().st_mtime_ns for path in finished]
    read = []
    source = MatFaces(faces_folder)
    faces = source.faces
    source.faces = lambda start, stop: read.append((start, stop)) or faces(start, stop)
    assert [path.stat().st_mtime_ns for path in finished] == before
    prepare.prepare(source, tmp_path / "cut", **options)
    assert read == [(3, 4), (6, 9), (9, 12)]  # the skipped face of a finished unit is looked at again
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert not (tmp_path / ".cut.partial").exists()


def test_leftovers_of_another_request_are_not_used(faces_folder, tmp_path):
    staging = tmp_path / ".out.partial"
    (staging / "unit-00000").mkdir(parents=True)
    (staging / "plan.json").write_text("{}")
    (staging / "unit-00000" / "done.json").write_text('{"count": 99, "skips": []}')
    assert prepare.prepare(MatFaces(faces_folder), tmp_path / "out", format="arrays", max_skipped=0.25).count == 9


def test_a_finished_folder_is_kept_and_another_request_refused(faces_folder, tmp_path, capsys):
    arguments = [
        "mat",
        f"--input={faces_folder}",
        f"--output={tmp_path / 'out'}",
        "--format=arrays",
        "--max_skipped=0.25",
    ]
    assert prepare_data.main(arguments) == 0
    before = (tmp_path / "out" / "image.npy").stat().st_mtime_ns
    assert prepare_data.main(arguments) == 0
    assert (tmp_path / "out" / "image.npy").stat().st_mtime_ns == before
    capsys.readouterr()
    assert prepare_data.main([*arguments, "--limit=2"]) == 1
    assert "holds another prepared set" in capsys.readouterr().err


def test_limit_margin_and_model_are_used(tmp_path):
    for seed in range(3):
        write_pair(tmp_path / "in", f"face{seed}", MODEL, seed, pt3d=False)
    save_morphable_model(tmp_path / "model.npz", MODEL)
    assert (
        prepare_data.main(
            [
                "mat",
                f"--input={tmp_path / 'in'}",
                f"--output={tmp_path / 'out'}",
                "--format=arrays",
                "--limit=2",
                "--margin=4",
                f"--morphable_model={tmp_path / 'model.npz'}",
            ]
        )
        == 0
    )
    opened = prepared_dataset.open_prepared(tmp_path / "out")
    assert opened.count == 2 and opened.image_size == 128


def error_of(capsys, *arguments):
    capsys.readouterr()
    assert prepare_data.main(list(arguments)) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    assert len(message.strip().splitlines()) == 1
    return message


def test_what_cannot_go_on_is_one_message_and_no_traceback(tmp_path, capsys):
    output = f"--output={tmp_path / 'out'}"
    for source in ("mat", "wild_csv", "umdfaces", "detections", "tfds_300w_lp"):
        message = error_of(capsys, source, "--input=/no/such/place", output)
        assert "/no/such/place: no such folder" in message
        assert "--input is missing" in error_of(capsys, source, output)
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild" / "l.csv").write_text("file,x0\n")
    message = error_of(capsys, "wild_csv", f"--input={tmp_path / 'wild'}", output)
    assert "l.csv: lacks the columns y0, x1" in message and "found file, x0" in message
    write_pair(tmp_path / "bad", "face", MODEL, Pose_Para=None)
    message = error_of(capsys, "mat", f"--input={tmp_path / 'bad'}", output)
    assert "none of 1 faces could be used: missing key (1)" in message and "face.mat" in message
    message = error_of(capsys, "mat", f"--input={tmp_path / 'bad'}", output, "--morphable_model=/no/model")
    assert "/no/model: no such morphable model" in message
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    write_pair(tmp_path / "good", "face", MODEL)
    message = error_of(
        capsys, "mat", f"--input={tmp_path / 'good'}", "--format=arrays", f"--output={tmp_path / 'mine'}"
    )
    assert "holds other files" in message
    assert sorted(os.listdir(tmp_path)) == ["bad", "good", "mine", "wild"]


def test_sources_without_any_listed_face_are_errors(tmp_path):
    with pytest.raises(SourceError, match="no .mat files"):
        MatFaces(tmp_path)


def test_the_manifest_says_nothing_about_time_or_place(faces_folder, tmp_path):
    prepare.prepare(MatFaces(faces_folder), tmp_path / "out", format="arrays", max_skipped=0.25)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert str(tmp_path) not in json.dumps(manifest)


def test_made_faces_do_not_replace_another_set(faces_folder, tmp_path, capsys):
    output = tmp_path / "out"
    prepare.prepare(MatFaces(faces_folder), output, format="arrays", max_skipped=1.0)
    before = content(output)
    assert prepare_data.main(["synthetic_wild", f"--output={output}", "--limit=2"]) == 1
    assert "holds another prepared set" in capsys.readouterr().err
    assert content(output) == before


def test_a_command_that_finds_its_work_done_says_so_and_a_changed_source_is_named(faces_folder, tmp_path, capsys):
    folder, output = tmp_path / "faces", tmp_path / "out"
    shutil.copytree(faces_folder, folder)
    boxes = {"name": np.array(["face01"]), "split": np.array(["train"])}
    command = ["mat", f"--input={folder}", f"--output={output}", "--format=arrays", "--max_skipped=1"]
    np.savez(folder / "annotations.npz", roi_box=np.float32([[0, 0, 200, 200]]), **boxes)
    assert prepare_data.main(command) == 0
    assert "nothing was done" not in capsys.readouterr().err
    assert prepare_data.main(command) == 0
    assert "nothing was done" in capsys.readouterr().err
    np.savez(folder / "annotations.npz", roi_box=np.float32([[9, 9, 200, 200]]), **boxes)
    assert prepare_data.main(command) == 1
    assert "when that listed something else" in capsys.readouterr().err


def test_two_preparations_of_one_folder_do_not_clear_away_each_others_work(faces_folder, tmp_path):
    def engine(job, pending, watch):
        with pytest.raises(PreparedError, match=rf"another run is at work there .process {os.getpid()}.*--output"):
            prepare.prepare(MatFaces(faces_folder), tmp_path / "out", format="arrays", max_skipped=1.0)
        in_process(job, pending, watch)

    summary = prepare.prepare(MatFaces(faces_folder), tmp_path / "out", format="arrays", max_skipped=1.0, engine=engine)
    assert summary.count == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
