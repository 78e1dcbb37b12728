"""scripts.evaluate_now on a made challenge whose errors are known."""

import csv
import json

import cv2
import numpy as np
import pytest
import skimage.data
from scipy.spatial.transform import Rotation

from scripts import evaluate_now, terminal
from twodal_jax.evaluation import now_protocol
from twodal_jax.face_models import cc0_head


def write_obj(path, vertices, triangles):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["v {:.9f} {:.9f} {:.9f}".format(*vertex) for vertex in vertices]
    path.write_text("\n".join([*lines, *("f {} {} {}".format(*(row + 1)) for row in triangles)]))


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    """(data folder, folder of predictions): two subjects, whose predictions are their scans, moved and in metres."""
    data, predictions = tmp_path_factory.mktemp("now"), tmp_path_factory.mktemp("predictions")
    model = cc0_head.load().model
    triangles = np.asarray(model.triangles)
    seven = np.asarray(model.landmark_indices)[list(now_protocol.LANDMARKS)]
    rng, lines = np.random.default_rng(0), []
    for subject in ("FaMoS_1", "FaMoS_2"):
        vertices = 1000 * np.asarray(model.mean, np.float64).T * rng.uniform(0.9, 1.1, 3)
        write_obj(data / "scans" / subject / "scan.obj", vertices, triangles)
        points = "".join(f'  <point x="{x}" y="{y}" z="{z}" active="1" name="0"/>\n' for x, y, z in vertices[seven])
        marks = data / "scans_lmks_onlypp" / subject / "scan.pp"
        marks.parent.mkdir(parents=True)
        marks.write_text(f"<!DOCTYPE PickedPoints>\n<PickedPoints>\n{points}</PickedPoints>\n")
        for challenge in ("multiview_neutral", "selfie"):
            lines.append(f"{subject}/{challenge}/IMG_1.jpg")
            turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
            moved = 0.001 * vertices @ turn.T + [0.1, 0.2, 0.3]
            target = predictions / subject / challenge / "IMG_1.obj"
            write_obj(target, moved, triangles)
            np.save(target.with_suffix(".npy"), moved[seven])
    (data / "imagepathsvalidation.txt").write_text("\n".join(lines) + "\n")
    return data, predictions


def run(data, output, *options):
    evaluate_now.evaluate(evaluate_now.parse([f"--data_dir={data}", f"--output_dir={output}", *options]))
    return json.loads((output / "now.json").read_text())


def test_scans_as_predictions_have_no_error_in_any_unit_and_pose(challenge, tmp_path):
    data, predictions = challenge
    result = run(data, tmp_path, f"--predictions=own:{predictions}")["results"]["own"]
    assert result["images"] == 4 and set(result) >= {"all", "multiview_neutral", "selfie"}
    assert max(result["all"].values()) < 1e-3
    metrical = run(data, tmp_path, f"--predictions=own:{predictions}", "--metrical", "--unit=m")
    assert max(metrical["results"]["own"]["all"].values()) < 1e-3
    with open(tmp_path / "cumulative.csv") as file:
        curve = list(csv.DictReader(file))
    assert float(curve[1]["own"]) == 100


def test_missing_predictions_are_counted_and_named(challenge, tmp_path):
    data, predictions = challenge
    (data / "longer.txt").write_text((data / "imagepathsvalidation.txt").read_text() + "FaMoS_1/selfie/IMG_9.jpg\n")
    result = run(data, tmp_path, f"--predictions={predictions}", "--list=longer.txt")
    assert result["images"] == 5 and result["results"][str(predictions)]["images"] == 4
    assert len(result["problems"]) == 1 and "IMG_9" in result["problems"][0]


@pytest.mark.parametrize("options, message", [((), "nothing to evaluate"), (("--predictions=/nowhere",), "No image")])
def test_errors_say_what_to_give(challenge, tmp_path, options, message):
    with pytest.raises(terminal.UsageError, match=message):
        run(challenge[0], tmp_path, *options)
    with pytest.raises(terminal.UsageError, match="no such list"):
        run(challenge[0], tmp_path, "--list=none.txt")


def test_a_network_of_the_package_gives_a_neutral_face_in_millimetres(challenge, tmp_path):
    data, _ = challenge
    photo = data / evaluate_now.PICTURES / "FaMoS_1" / "multiview_neutral" / "IMG_1.jpg"
    photo.parent.mkdir(parents=True)
    cv2.imwrite(str(photo), skimage.data.astronaut()[..., ::-1])
    (data / "one.txt").write_text("FaMoS_1/multiview_neutral/IMG_1.jpg\n")
    result = run(data, tmp_path, "--checkpoint=free", "--list=one.txt", "--metrical")["results"]["free"]["all"]
    assert 0.2 < result["median"] < 10
