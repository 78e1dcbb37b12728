"""AFLW and AFLW-LFPA on synthetic data in the real file formats, with known errors."""

import csv
import json

import cv2
import numpy as np
import pytest
import scipy.io
from helpers_run import run_python

from data_pipelines.sources.base import SourceError
from data_pipelines.test_sets import aflw_lfpa
from tests.helpers_face_files import photo
from twodal_jax.evaluation import sparse
from twodal_jax.evaluation.predictions import Predictions
from twodal_jax.face_models import cc0_head, sampling
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import heatmap, projection

COUNT = 12
LFPA_MAP = sparse.read_landmark_map("lfpa34", 34)


@pytest.fixture(scope="module")
def model():
    return load_morphable_model("builtin")


@pytest.fixture(scope="module")
def faces(model):
    """(alpha [n, 62] of 120-pixel crops, their 68 landmarks [n, 68, 3]) of turned faces of the built-in model."""
    rng = np.random.default_rng(0)
    alpha = np.stack([sampling.sample_alpha(rng, cc0_head.load()) for _ in range(200)])
    turned = np.abs(alpha[:, 2]) > 0.5 * np.linalg.norm(alpha[:, :3], axis=1)  # sine of the yaw
    alpha = alpha[turned][:COUNT]
    return alpha, np.asarray(projection.landmarks_crop(model, alpha))


def far_side_hidden(landmarks, points):
    """Whether points [n, P] are on the far side of a turned face."""
    nose = landmarks[:, 30, 0] - np.median(landmarks[:, :, 0], axis=1)
    beyond = (points[..., 0] - np.median(points[..., 0], axis=1)[:, None]) * np.sign(nose)[:, None]
    return beyond > np.quantile(beyond, 0.7, axis=1)[:, None]


def points_34(landmarks):
    """The 34 points of our map, in NumPy; the ears, which it lacks, are arbitrary."""
    points = np.einsum("pk,nkd->npd", LFPA_MAP.weights, landmarks[..., :2])
    points[:, [12, 16]] = landmarks[:, [0, 16], :2]
    return points


def in_image(points):
    """Crop pixels -> pixels of an image three times as large as the crop, which is all of it."""
    return 3 * points[..., :2] + 1


@pytest.fixture(scope="module", params=[1, 0], ids=["1 is visible", "0 is visible"])
def lfpa(request, faces, tmp_path_factory):
    """(folder, visible [n, 34]); the images are three times as large as the crops."""
    folder = tmp_path_factory.mktemp("lfpa")
    (folder / "TestImages").mkdir()
    landmarks = faces[1]
    points = points_34(landmarks)
    visible = ~far_side_hidden(landmarks, points)
    mask = visible if request.param else ~visible
    x, y = np.moveaxis(in_image(points) + 1, -1, 0)  # the file counts from 1
    rows = np.concatenate([x, y, mask], axis=1)
    low, high = in_image(landmarks).min(1), in_image(landmarks).max(1)
    scipy.io.savemat(folder / "Landmark.mat", {"phisT": rows})
    scipy.io.savemat(folder / "BoundingBox.mat", {"bboxesT": np.concatenate([low, high - low], axis=1)})
    for i in range(COUNT):
        cv2.imwrite(str(folder / "TestImages" / f"{i + 1}.jpg"), photo(360, seed=i))
    return folder, visible


def whole_image(faces):
    """The true alpha as predictions whose crops are the whole images."""
    boxes = np.tile(np.float32([0, 0, 360, 360]), (COUNT, 1))
    keys = tuple(str(i + 1) for i in range(COUNT))
    return Predictions("m", keys, alpha=faces[0], roi_box=boxes)


def test_lfpa_is_read_with_both_polarities_of_its_mask(lfpa, faces):
    folder, visible = lfpa
    truth, problems = aflw_lfpa.read_lfpa(folder)
    np.testing.assert_array_equal(truth.visible, visible)
    np.testing.assert_allclose(truth.points, in_image(points_34(faces[1])), atol=1e-3)
    assert truth.keys[0] == "1" and len(truth) == COUNT and "means visible" in problems[0]


def test_the_true_coefficients_have_no_error_and_a_shift_is_the_error(lfpa, faces, model):
    truth, _ = aflw_lfpa.read_lfpa(lfpa[0])
    problems = []
    exact = sparse.measure(whole_image(faces), truth, LFPA_MAP, model, problems)[sparse.NME]
    assert (exact < 1e-3).all() and not problems
    moved = in_image(faces[1]) + [0.0, 6.0]
    shifted = Predictions("m", tuple(truth.keys), landmarks68=moved.astype(np.float32))
    errors = sparse.measure(shifted, truth, LFPA_MAP, model, problems)[sparse.NME]
    size = np.sqrt(np.prod(np.ptp(3 * faces[1][..., :2], axis=1), axis=-1))
    np.testing.assert_allclose(errors, 600 / size, rtol=1e-4)


def test_hidden_landmarks_are_not_measured(lfpa, faces, model):
    truth, _ = aflw_lfpa.read_lfpa(lfpa[0])
    wrong = np.where(truth.visible[..., None], truth.points, 1e5).astype(np.float32)
    errors = sparse.nme_visible(wrong, truth, np.ones(34, bool))
    assert (errors < 1e-6).all()


def test_vertices_of_a_map_come_from_the_mesh(faces, model, lfpa, tmp_path):
    index = np.asarray(model.landmark_indices)
    lines = [f"{p},,{index[p]}" for p in range(34)]
    (tmp_path / "map.csv").write_text("# ours\nlandmark,from68,vertex\n" + "\n".join(lines))
    landmark_map = sparse.read_landmark_map(tmp_path / "map.csv", 34, model.num_vertices)
    truth, _ = aflw_lfpa.read_lfpa(lfpa[0])
    points = sparse.predicted_points(whole_image(faces), truth, np.arange(COUNT), landmark_map, model)
    np.testing.assert_allclose(points, in_image(faces[1][:, :34]), atol=0.01)


@pytest.mark.parametrize(
    "text, message",
    [
        ("landmark,from68,vertex\n40,1,\n", r"row 2: landmark must be in \[0, 34\)"),
        ("landmark,from68,vertex\n4,68,\n", "row 2"),
        ("landmark,from68,vertex\n4,,999999\n", "row 2"),
        ("landmark,from68,vertex\n4,nose,\n", "whole numbers"),
        ("a,b\n1,2\n", "expected the columns"),
        ("landmark,from68,vertex\n", "no landmark"),
    ],
)
def test_a_broken_map_names_file_and_row(tmp_path, text, message):
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(sparse.LandmarkMapError, match=message):
        sparse.read_landmark_map(tmp_path / "map.csv", 34, 1000)


def write_aflw(folder, faces):
    """Writes landmarks21.csv of crops: the 18 points, chin and wrong ears; every fifth point is hidden."""
    (folder / "images").mkdir(parents=True)
    eighteen = np.asarray(heatmap.landmarks_18_from_68(faces[1][..., :2]))
    points = np.full((COUNT, 21, 2), 3.0)
    points[:, heatmap.INDICES_OF_21] = eighteen
    points[:, 20] = faces[1][:, 8, :2]
    visible = np.ones((COUNT, 21), bool)
    visible[:, ::5] = False
    with open(folder / "landmarks21.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "yaw_deg", *[f"{a}{k}" for k in range(21) for a in ("x", "y", "visible")]])
        for i in range(COUNT):
            cells = [v for k in range(21) for v in (*points[i, k], int(visible[i, k]))]
            writer.writerow([f"face{i}.jpg", 10.0 * i - 55, *cells])
            cv2.imwrite(str(folder / "images" / f"face{i}.jpg"), photo(120, seed=i))
    return points, visible


def test_aflw_measures_visible_landmarks_only(faces, model, tmp_path):
    points, visible = write_aflw(tmp_path, faces)
    truth, problems = aflw_lfpa.read_aflw(tmp_path)
    assert truth.keys == [f"face{i}" for i in range(COUNT)] and not problems
    np.testing.assert_array_equal(truth.visible, visible)
    landmark_map = sparse.read_landmark_map("aflw21", 21)
    predictions = Predictions("m", tuple(truth.keys), alpha=faces[0])
    errors = sparse.measure(predictions, truth, landmark_map, model, [])[sparse.NME]
    assert (errors < 1e-3).all()
    box = np.stack([np.ptp(p[v], axis=0) for p, v in zip(points, visible)])
    np.testing.assert_allclose(truth.size, np.sqrt(box.prod(axis=1)), rtol=1e-4)


@pytest.mark.parametrize("test_set", ["aflw", "lfpa"])
def test_the_commands_write_metrics_and_report_errors(test_set, faces, lfpa, tmp_path):
    if test_set == "aflw":
        write_aflw(tmp_path / "data", faces)
        data, names = tmp_path / "data", [f"images/face{i}.jpg" for i in range(COUNT)]
        landmarks = faces[1][..., :2]
    else:
        data, names, landmarks = lfpa[0], [f"{i + 1}.jpg" for i in range(COUNT)], in_image(faces[1])
    np.savez(tmp_path / "m.npz", name=np.array(names[1:]), landmarks68=np.swapaxes(landmarks, 1, 2)[1:], pixel_origin=0)

    def evaluate(data, output):
        options = f"--predictions={tmp_path / 'm.npz'}", "--morphable_model=builtin"
        folders = f"--data_dir={data}", f"--output_dir={tmp_path / output}"
        return run_python("-m", f"scripts.evaluate_{test_set}", *folders, *options)

    process = evaluate(data, "out")
    assert process.returncode == 0, process.stderr[-2000:]
    assert "no prediction" in process.stderr
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["nme"]["mean_of_images"] < 1e-3 and found["nme"]["count"] == COUNT - 1
    assert (tmp_path / "out" / "error_distribution_nme.png").is_file()
    assert (tmp_path / "out" / "cumulative_by_yaw_nme.png").is_file() == (test_set == "aflw")  # LFPA has no yaw
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert ("| 2DAL † | - | - | - | - | 2.88 |" in tables) == (test_set == "lfpa") and "Not measured" not in tables
    process = evaluate(tmp_path / "nowhere", "out2")
    assert process.returncode == 1 and "no such folder" in process.stderr
    assert "Traceback" not in process.stderr


def test_lfpa_files_of_another_form_are_named(tmp_path):
    with pytest.raises(SourceError, match="Landmark.mat"):
        aflw_lfpa.read_lfpa(tmp_path)
    scipy.io.savemat(tmp_path / "Landmark.mat", {"phisT": np.zeros((3, 68))})
    with pytest.raises(SourceError, match=r"phisT is \(3, 68\), expected \[n, 102\]"):
        aflw_lfpa.read_lfpa(tmp_path)
