"""scripts.reconstruct: every kind of output is written for photos, and failed inputs are listed."""

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
    """The folder of a run on the built-in faces whose untrained network returns the mean face."""
    folder = tmp_path_factory.mktemp("run")
    model = load_morphable_model("builtin")
    regressor = {"regressor.name": "resnet18", "regressor.variant": "keypoints"}
    save_untrained_run(folder, model, tiny_config(**regressor, morphable_model="builtin"))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with a picture of one rendered face, one of two, and files that are not pictures."""
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
    """(exit status, printed text) of the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reconstruct", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command.main()
    captured = capsys.readouterr()
    return left.value.code or 0, captured.out + captured.err


def options(run, photos, out, *more):
    boxes = f"--boxes={photos / 'boxes.csv'}"
    return [f"--checkpoint={run}", f"--output_dir={out}", boxes, "--min_confidence=0", "--passes=1", *more]


def assert_boxes_surround(true_landmarks, faces_json):
    """Checks that the centre of some box lies near the centre of each face; returns the number of boxes."""
    faces = json.loads(faces_json.read_text())["faces"]
    centres = np.array([face["box"] for face in faces]).reshape(-1, 2, 2).mean(axis=1)
    for landmarks in np.load(true_landmarks):
        distance = np.linalg.norm(centres - landmarks.mean(axis=0), axis=1).min()
        assert distance < 0.35 * np.ptp(landmarks, axis=0).max()
    return len(faces)


@pytest.mark.slow
def test_every_output_is_written_and_bad_files_are_listed(run, photos, tmp_path, capsys):
    import trimesh

    out = tmp_path / "out"
    status, printed = call([photos, *options(run, photos, out, "--outputs=all", "--texture_size=256")], capsys)
    assert status == 1 and "empty.jpg" in printed and "text.png" in printed and "2 input(s) failed" in printed
    for name, count in (("one face", 1), ("two face", 2)):
        written = {path.name for path in (out / name).iterdir()}
        pictures = {"landmarks.jpg", "dense.jpg", "mesh.jpg", "depth.png", "pncc.png", "pose.jpg"}
        assert pictures | {"landmarks.csv", "pose.json", "faces.json", "viewer.html"} <= written
        for number in range(count):
            for kind in ("obj", "mtl", "png", "ply", "glb"):
                assert f"face_{number}.{kind}" in written
            assert {f"uv_{number}.png", f"uv_{number}_source.png"} <= written
        assert not [name for name in written if name.startswith(".") or name.endswith(".tmp")]
        assert assert_boxes_surround(photos / f"{name.split()[0]}.npy", out / name / "faces.json") == count
    mesh = trimesh.load(out / "one face" / "face_0.obj", process=False)
    image = cv2.imread(str(photos / "one face.png"))
    low, high = mesh.bounds
    assert (high[:2] > 0).all() and (low[:2] < image.shape[1::-1]).all()


@pytest.mark.slow
def test_the_default_detector_detects_the_rendered_faces(run, photos, tmp_path, capsys):
    arguments = [f"--checkpoint={run}", f"--output_dir={tmp_path}", "--outputs=json", "--min_confidence=0"]
    status, printed = call([photos / "two face.png", *arguments], capsys)
    assert status == 0, printed
    assert_boxes_surround(photos / "two.npy", tmp_path / "two face" / "faces.json")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (["--outputs=meshh"], "--outputs: meshh; expected all, or some of landmarks"),
        (["--boxes=nowhere.csv"], "nowhere.csv: no such file"),
        (["--boxes=a.csv", "--landmarks=b.csv"], "not both"),
        (["--checkpoint=nowhere"], "is not the --workdir of a run of twodal_jax.main"),
        (["--uv=nowhere.npy"], "nowhere.npy"),
        (["nowhere/*.jpg"], "nowhere/*.jpg: matches no picture"),
    ],
)
def test_invalid_options_are_one_message(run, photos, tmp_path, capsys, spoil, message):
    photo = [] if not spoil[0].startswith("--") else [photos / "one face.png"]
    arguments = [*photo, f"--checkpoint={run}", f"--output_dir={tmp_path}", *spoil]
    status, printed = call(arguments, capsys)
    assert status == 1 and message in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    "wrong", ["--passes=0", "--texture_size=0", "--max_frames=0", "--max_frames=-3", "--passes=two"]
)
def test_counts_are_at_least_one(wrong, tmp_path, capsys):
    status, printed = call([tmp_path / "a.jpg", "--checkpoint=c", f"--output_dir={tmp_path / 'out'}", wrong], capsys)
    assert status == 2 and f"argument {wrong.split('=')[0]}: must be a whole number, at least 1" in printed


def test_same_person_is_refused_for_videos(run, tmp_path, capsys):
    (tmp_path / "talk.mp4").write_bytes(b"")
    arguments = [tmp_path / "talk.mp4", "--same-person", f"--checkpoint={run}", f"--output_dir={tmp_path / 'out'}"]
    status, printed = call(arguments, capsys)
    assert status == 1 and "--same-person is for photos" in printed and "Traceback" not in printed


def test_given_boxes_are_refused_for_videos_before_anything_is_read(run, photos, tmp_path, capsys):
    (tmp_path / "talk.mp4").write_bytes(b"")
    arguments = [tmp_path / "talk.mp4", *options(run, photos, tmp_path / "out")]
    status, printed = call(arguments, capsys)
    assert status == 1 and "--boxes and --landmarks are for photos" in printed and "Traceback" not in printed


def test_a_picture_without_a_face_is_reported_with_the_options_to_try(run, tmp_path, capsys):
    assert cv2.imwrite(str(tmp_path / "plain.png"), np.full((90, 90, 3), 127, np.uint8))
    arguments = [tmp_path / "plain.png", f"--checkpoint={run}", f"--output_dir={tmp_path / 'out'}"]
    status, printed = call(arguments, capsys)
    assert status == 1 and "no face found; give --boxes" in printed
    assert "0 face(s) in 1 photo(s), so nothing was written for them" in printed and "written to" not in printed
    assert not (tmp_path / "out").exists()


def test_an_unreadable_file_is_named_once(run, tmp_path, capsys):
    for name in ("text.png", "empty.jpg"):
        (tmp_path / name).write_bytes(b"no picture" if name == "text.png" else b"")
    files = [tmp_path / "text.png", tmp_path / "empty.jpg"]
    status, printed = call([*files, f"--checkpoint={run}", f"--output_dir={tmp_path / 'out'}"], capsys)
    assert status == 1 and "unreadable image" in printed and "empty image file: 0 bytes" in printed
    assert [printed.count(str(file)) for file in files] == [1, 1]


def test_ctrl_c_reports_the_number_of_inputs_done(run, photos, tmp_path, capsys, monkeypatch):
    write, written = photo_job._write, []

    def interrupted_at_the_second(photo, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(photo)
        write(photo, *arguments)

    monkeypatch.setattr(photo_job, "_write", interrupted_at_the_second)
    status, printed = call([photos, *options(run, photos, tmp_path, "--outputs=json")], capsys)
    assert status == 130 and "Traceback" not in printed
    assert printed.strip().splitlines()[-1] == "Interrupted: 3 of 4 input(s) were done. Files written so far are whole."
    assert (tmp_path / "one face" / "faces.json").exists() and not (tmp_path / "two face").exists()


def test_ctrl_c_before_the_first_input_reports_that_nothing_was_written(photos, tmp_path, capsys, monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load", interrupt)
    status, printed = call([photos, "--checkpoint=c", f"--output_dir={tmp_path}"], capsys)
    assert status == 130 and printed.endswith("Interrupted before anything was written.\n")


@pytest.mark.parametrize("module", ["scripts.terminal", "jax", "twodal_jax.reconstruction.photos"])
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


def test_an_output_folder_that_cannot_be_made_is_one_message(run, photos, tmp_path, capsys):
    (tmp_path / "out").write_text("a file, no folder")
    arguments = [photos / "one face.png", *options(run, photos, tmp_path / "out", "--outputs=json")]
    status, printed = call(arguments, capsys)
    assert status == 1 and "out" in printed and "Traceback" not in printed


def test_output_names_are_checked_and_ordered():
    assert outputs.parse_names("obj, landmarks") == ("landmarks", "obj")
    assert outputs.parse_names("all") == tuple(outputs.OUTPUTS)
    assert set(outputs.DEFAULT) < outputs.OUTPUTS.keys()
    with pytest.raises(outputs.OutputError, match="nothing given"):
        outputs.parse_names(" , ")


def test_help_imports_no_large_package():
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


def test_the_command_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "scripts.reconstruct"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "INPUT" in done.stderr


def test_files_of_faces_of_an_earlier_run_are_deleted(tmp_path):
    for name in "face_0.glb face_1.glb face_2.obj face_10.mtl uv_1_source.png uv_0.png my_face_9.obj".split():
        (tmp_path / name).write_bytes(b"x")
    outputs.write(types.SimpleNamespace(faces=[None]), tmp_path, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["face_0.glb", "my_face_9.obj", "uv_0.png"]
