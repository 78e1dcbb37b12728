"""The command: photos in, every kind of output out; what fails is listed and costs no other."""

import json
import subprocess
import sys
import types

import cv2
import helpers_pictures
import numpy as np
import pytest
from helpers_run import ROOT, run_python, save_untrained_run, tiny_config

from scripts import reconstruct as command
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.reconstruction import outputs, photos as photo_job


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on the built-in faces whose network only knows the mean face."""
    folder = tmp_path_factory.mktemp("run")
    model = load_morphable_model("builtin")
    config = tiny_config(
        **{"regressor.name": "resnet18", "regressor.variant": "keypoints", "morphable_model": "builtin"}
    )
    save_untrained_run(folder, model, config)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with a picture of one rendered face, one of two, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for name, sizes in (("one", [200]), ("two", [200, 140])):
        image, landmarks = helpers_pictures.group_photo(7, sizes, max_yaw=10.0)
        assert cv2.imwrite(str(folder / f"{name} face.png"), image)
        np.save(folder / f"{name}.npy", landmarks)
        low, high = landmarks.min(axis=1) - 20, landmarks.max(axis=1) + 20
        with open(folder / "boxes.csv", "a", encoding="utf-8") as file:
            for (x1, y1), (x2, y2) in zip(low, high):
                file.write(f"{name} face.png,{x1:.1f},{y1:.1f},{x2:.1f},{y2:.1f}\n")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    return folder


def call(arguments, capsys):
    """(exit status, what was printed) of the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reconstruct", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command.main()
    captured = capsys.readouterr()
    return left.value.code or 0, captured.out + captured.err


def options(run, photos, out, *more):
    return [
        f"--checkpoint={run}",
        f"--output_dir={out}",
        f"--boxes={photos / 'boxes.csv'}",
        "--min_confidence=0",
        "--passes=1",
        *more,
    ]


@pytest.mark.slow
def test_every_output_is_written_and_bad_files_are_listed(run, photos, tmp_path, capsys):
    import trimesh

    out = tmp_path / "out"
    status, said = call([photos, *options(run, photos, out, "--outputs=all", "--texture_size=256")], capsys)
    assert status == 1 and "empty.jpg" in said and "text.png" in said and "2 input(s) failed" in said
    for name, count in (("one face", 1), ("two face", 2)):
        written = {path.name for path in (out / name).iterdir()}
        for kind in (
            "landmarks.jpg",
            "landmarks.csv",
            "dense.jpg",
            "mesh.jpg",
            "depth.png",
            "pncc.png",
            "pose.jpg",
            "pose.json",
            "faces.json",
            "viewer.html",
        ):
            assert kind in written
        for number in range(count):
            for kind in ("obj", "mtl", "png", "ply", "glb"):
                assert f"face_{number}.{kind}" in written
            assert {f"uv_{number}.png", f"uv_{number}_source.png"} <= written
        assert not [name for name in written if name.startswith(".") or name.endswith(".tmp")]
        content = json.loads((out / name / "faces.json").read_text())
        assert len(content["faces"]) == count
        true = np.load(photos / f"{name.split()[0]}.npy")
        centres = np.array([face["box"] for face in content["faces"]]).reshape(-1, 2, 2).mean(axis=1)
        for landmarks in true:
            distance = np.linalg.norm(centres - landmarks.mean(axis=0), axis=1).min()
            assert distance < 0.35 * np.ptp(landmarks, axis=0).max()
    mesh = trimesh.load(out / "one face" / "face_0.obj", process=False)
    image = cv2.imread(str(photos / "one face.png"))
    low, high = mesh.bounds
    assert (high[:2] > 0).all() and (low[:2] < image.shape[1::-1]).all()


@pytest.mark.slow
def test_the_default_detector_finds_the_rendered_faces(run, photos, tmp_path, capsys):
    arguments = [
        photos / "two face.png",
        f"--checkpoint={run}",
        f"--output_dir={tmp_path}",
        "--outputs=json",
        "--min_confidence=0",
    ]
    status, said = call(arguments, capsys)
    assert status == 0, said
    true = np.load(photos / "two.npy")
    boxes = np.array([face["box"] for face in json.loads((tmp_path / "two face/faces.json").read_text())["faces"]])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for landmarks in true:
        distance = np.linalg.norm(centres - landmarks.mean(axis=0), axis=1).min()
        assert distance < 0.35 * np.ptp(landmarks, axis=0).max()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (["--outputs=meshh"], "--outputs: meshh; expected all, or some of landmarks"),
        (["--boxes=nowhere.csv"], "nowhere.csv: no such file"),
        (["--boxes=a.csv", "--landmarks=b.csv"], "not both"),
        (["--checkpoint=nowhere"], "no run of twodal_jax.main"),
        (["--uv=nowhere.npy"], "nowhere.npy"),
    ],
)
def test_wrong_options_are_one_message(run, photos, tmp_path, capsys, spoil, message):
    arguments = [photos / "one face.png", f"--checkpoint={run}", f"--output_dir={tmp_path}", *spoil]
    status, said = call(arguments, capsys)
    assert status == 1 and message in said and "Traceback" not in said


@pytest.mark.parametrize(
    "wrong", ["--passes=0", "--texture_size=0", "--max_frames=0", "--max_frames=-3", "--passes=two"]
)
def test_counts_are_at_least_one(wrong, tmp_path, capsys):
    status, said = call([tmp_path / "a.jpg", "--checkpoint=c", f"--output_dir={tmp_path / 'out'}", wrong], capsys)
    assert status == 2 and f"argument {wrong.split('=')[0]}: must be a whole number, at least 1" in said


def test_given_boxes_are_refused_for_videos_before_anything_is_read(run, photos, tmp_path, capsys):
    (tmp_path / "talk.mp4").write_bytes(b"")
    arguments = [tmp_path / "talk.mp4", *options(run, photos, tmp_path / "out")]
    status, said = call(arguments, capsys)
    assert status == 1 and "--boxes and --landmarks are for photos" in said and "Traceback" not in said


def test_an_input_that_is_nothing_is_one_message(run, tmp_path, capsys):
    arguments = ["nowhere/*.jpg", f"--checkpoint={run}", f"--output_dir={tmp_path}"]
    status, said = call(arguments, capsys)
    assert status == 1 and "nowhere/*.jpg: matches no picture" in said


def test_a_picture_without_a_face_says_what_may_help(run, tmp_path, capsys):
    assert cv2.imwrite(str(tmp_path / "plain.png"), np.full((90, 90, 3), 127, np.uint8))
    arguments = [tmp_path / "plain.png", f"--checkpoint={run}", f"--output_dir={tmp_path / 'out'}"]
    status, said = call(arguments, capsys)
    assert status == 1 and "no face found; give --boxes" in said
    assert "0 face(s) in 1 photo(s), so nothing was written for them" in said and "written to" not in said
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_read_is_named_once(run, tmp_path, capsys):
    for name in ("text.png", "empty.jpg"):
        (tmp_path / name).write_bytes(b"no picture" if name == "text.png" else b"")
    files = [tmp_path / "text.png", tmp_path / "empty.jpg"]
    status, said = call([*files, f"--checkpoint={run}", f"--output_dir={tmp_path / 'out'}"], capsys)
    assert status == 1 and "unreadable image" in said and "empty image file: 0 bytes" in said
    assert [said.count(str(file)) for file in files] == [1, 1]


def test_ctrl_c_says_how_many_inputs_were_done(run, photos, tmp_path, capsys, monkeypatch):
    write, written = photo_job._write, []

    def interrupted_at_the_second(photo, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(photo)
        write(photo, *arguments)

    monkeypatch.setattr(photo_job, "_write", interrupted_at_the_second)
    status, said = call([photos, *options(run, photos, tmp_path, "--outputs=json")], capsys)
    assert status == 130 and "Traceback" not in said
    assert said.strip().splitlines()[-1] == "Interrupted: 3 of 4 input(s) were done. Files written so far are whole."
    assert (tmp_path / "one face" / "faces.json").exists() and not (tmp_path / "two face").exists()


def test_ctrl_c_before_the_first_input_says_that_nothing_was_written(photos, tmp_path, capsys, monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load", interrupt)
    status, said = call([photos, "--checkpoint=c", f"--output_dir={tmp_path}"], capsys)
    assert status == 130 and said == "Interrupted before anything was written.\n"


@pytest.mark.parametrize("module", ["scripts.evaluation_cli", "jax", "twodal_jax.reconstruction.photos"])
def test_ctrl_c_during_the_imports_is_one_line(module):
    code = (
        "import sys, scripts.reconstruct as command\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv = ['reconstruct', 'a.jpg', '--checkpoint=c', '--output_dir=out']\n"
        "command.main()\n"
    )
    process = run_python("-c", code)
    assert (process.returncode, process.stdout) == (130, "")
    assert process.stderr == "Interrupted before anything was written.\n"


def test_a_folder_that_cannot_be_written_stops_the_command(run, photos, tmp_path, capsys):
    (tmp_path / "out").write_text("a file, no folder")
    arguments = [photos / "one face.png", *options(run, photos, tmp_path / "out", "--outputs=json")]
    status, said = call(arguments, capsys)
    assert status == 1 and "out" in said and "Traceback" not in said


def test_names_of_outputs_are_checked_and_ordered():
    assert outputs.parse_names("obj, landmarks") == ("landmarks", "obj")
    assert outputs.parse_names("all") == tuple(outputs.OUTPUTS)
    assert set(outputs.DEFAULT) < outputs.OUTPUTS.keys()
    with pytest.raises(outputs.OutputError, match="nothing given"):
        outputs.parse_names(" , ")


def test_help_needs_nothing_heavy():
    code = (
        "import sys, scripts.reconstruct as command\n"
        "sys.argv = ['reconstruct', '--help']\n"
        "try: command.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'jax', 'cv2', 'skimage', 'numba', 'trimesh'} & sys.modules.keys()))\n"
    )
    process = run_python("-c", code)
    assert process.returncode == 0 and process.stdout.endswith("[]\n"), process.stderr
    assert "--min_confidence" in process.stdout


def test_the_command_is_a_module():
    done = subprocess.run([sys.executable, "-m", "scripts.reconstruct"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "INPUT" in done.stderr


def test_faces_that_are_not_found_any_more_leave_no_files(tmp_path):
    for name in (
        "face_0.glb",
        "face_1.glb",
        "face_2.obj",
        "face_10.mtl",
        "uv_1_source.png",
        "uv_0.png",
        "my_face_9.obj",
    ):
        (tmp_path / name).write_bytes(b"x")
    outputs.write(types.SimpleNamespace(faces=[None]), tmp_path, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["face_0.glb", "my_face_9.obj", "uv_0.png"]
