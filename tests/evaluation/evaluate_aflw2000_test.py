"""The AFLW2000-3D command on synthetic data in the real file formats, with known errors."""

import dataclasses
import json
import os
import pathlib

import helpers_model
import numpy as np
import pytest
from helpers_run import run_python, save_untrained_run, tiny_config

from data_pipelines.sources.base import SourceError
from data_pipelines.test_sets import aflw2000
from tests.helpers_face_files import tiny_model, write_pair
from twodal_jax.evaluation import metrics, nme_evaluation
from twodal_jax.evaluation.predictions import Predictions, read_predictions
from twodal_jax.face_models.load import load_morphable_model, save_morphable_model
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import same_mesh

MODEL = tiny_model(num_vertices=300)
COUNT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aflw2000")
    for seed in range(COUNT):
        write_pair(folder, f"image{seed}", MODEL, seed)
    save_morphable_model(folder.parent / "model.npz", MODEL)
    return folder


@pytest.fixture(scope="module")
def truth(folder):
    return aflw2000.read_ground_truth(folder)[0]


def measured(predictions, truth, **options):
    problems = []
    errors = nme_evaluation.measure(predictions, truth, MODEL, problems=problems, **options)
    return errors, problems


def true_vertices(truth):
    return np.asarray(nme_evaluation.vertices_image(MODEL, truth.alpha, truth.roi_box))


def box_size(truth):
    return np.sqrt(np.prod(np.ptp(truth.landmarks68[..., :2], axis=1), axis=-1))


def test_the_true_coefficients_have_no_error(truth):
    errors, problems = measured(Predictions("truth", tuple(truth.keys), alpha=truth.alpha), truth)
    assert set(errors) == {"nme_2d_68", "nme_3d_68", "nme_2d_dense", "nme_3d_dense", "nme_reconstruction"}
    for name, values in errors.items():
        assert (values < 0.05).all(), (name, values)
    assert not problems


@pytest.mark.parametrize("shift", [3.0, -7.5])
def test_a_shift_of_landmarks_is_the_error(truth, shift):
    moved = truth.landmarks68 + [shift, 0.0, 4.0]
    errors, _ = measured(Predictions("m", tuple(truth.keys), landmarks68=moved), truth)
    expected = 100 * abs(shift) / box_size(truth)
    np.testing.assert_allclose(errors["nme_2d_68"], expected, rtol=1e-5)
    np.testing.assert_allclose(errors["nme_3d_68"], expected, rtol=1e-5)  # z counts from its minimum
    assert "nme_2d_dense" not in errors and "nme_reconstruction" not in errors


def test_a_shift_of_meshes_is_the_error_but_not_after_icp(truth, tmp_path):
    moved = true_vertices(truth) + [0.0, 2.0, -150.0]
    path = tmp_path / "meshes.npz"
    order = np.array([3, 0, 4, 1, 2])  # files need not be in the test set's order
    vertices = np.swapaxes(moved, 1, 2)[order]
    np.savez(path, name=np.array(truth.keys)[order], vertices=vertices, pixel_origin=0)
    errors, problems = measured(read_predictions(path), truth)
    expected = 200 / box_size(truth)
    for name in ("nme_2d_68", "nme_2d_dense", "nme_3d_dense"):
        np.testing.assert_allclose(errors[name], expected, rtol=1e-3)
    assert (errors["nme_reconstruction"] < 0.5).all() and not problems


def test_2d_landmarks_have_2d_errors_only(truth):
    landmarks = truth.landmarks68[..., :2]
    errors, _ = measured(Predictions("m", tuple(truth.keys), landmarks68=landmarks), truth)
    assert list(errors) == ["nme_2d_68"] and (errors["nme_2d_68"] < 1e-4).all()


def test_meshes_without_correspondence_are_measured_by_icp_alone(truth, tmp_path):
    sparse = true_vertices(truth)[:, ::2]
    np.savez(tmp_path / "m.npz", name=np.array(truth.keys), vertices=np.swapaxes(sparse, 1, 2))
    errors, problems = measured(read_predictions(tmp_path / "m.npz"), truth)
    assert list(errors) == ["nme_reconstruction"] and (errors["nme_reconstruction"] < 0.5).all()
    assert "150 points, the morphable model 300" in problems[0]


def test_the_predictions_own_crop_boxes_are_used(truth):
    """Alpha of smaller crops, with their boxes, is the same face in the image."""
    centre = (truth.roi_box[:, :2] + truth.roi_box[:, 2:]) / 2
    half = (truth.roi_box[:, 2:] - truth.roi_box[:, :2]) / 3
    other = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    image = projection.alpha_crop_to_mat(truth.alpha, truth.roi_box, 450.0)
    alpha = np.asarray(projection.alpha_mat_to_crop(image, other, 450.0))
    predictions = Predictions("m", tuple(truth.keys), alpha=alpha, roi_box=other)
    errors, _ = measured(predictions, truth, with_icp=False)
    assert all((values < 0.05).all() for values in errors.values())


# {measure: by yaw bin, mean of bins, mean of images} of the authors' released coefficients, per cent.
AUTHORS = {
    "nme_2d_68": (2.658, 3.478, 4.835, 3.657, 3.144),
    "nme_3d_68": (4.565, 5.658, 7.786, 6.003, 5.261),
    "nme_2d_dense": (3.662, 4.780, 6.860, 5.101, 4.359),
    "nme_3d_dense": (5.528, 7.116, 9.841, 7.495, 6.484),
}


@pytest.mark.slow
@pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
def test_the_authors_coefficients_as_a_prediction_file_have_their_known_errors():
    """They are in 3DDFA's frame, the default of files without an origin; in ours they would be about a pixel off."""
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    model = load_morphable_model(folder / "bfm_3ddfa")
    truth, _ = aflw2000.read_ground_truth(folder / "aflw2000")
    predictions = read_predictions(folder / "aflw2000" / "authors_alpha.npz")
    found = nme_evaluation.summaries(nme_evaluation.measure(predictions, truth, model, with_icp=False), truth)
    for name, expected in AUTHORS.items():
        row = [found[name][key] for key in (*metrics.YAW_BINS, "mean_of_bins", "mean_of_images")]
        assert np.round(row, 3).tolist() == list(expected), name
        assert found[name]["count"] == 1197
    ours = dataclasses.replace(predictions, alpha_of_3ddfa=False)
    sparse = dataclasses.replace(truth, alpha=np.full_like(truth.alpha, np.nan))
    errors = nme_evaluation.measure(ours, sparse, model, with_icp=False)
    assert np.nanmean(errors["nme_2d_68"]) > 3.144 + 0.1


def test_missing_and_not_finite_predictions_are_named_and_the_others_measured(truth):
    alpha = truth.alpha[:-1].copy()
    alpha[1, 20] = np.nan
    errors, problems = measured(Predictions("m", tuple(truth.keys[:-1]), alpha=alpha), truth)
    for values in errors.values():
        assert np.isnan(values).tolist() == [False, True, False, False, True]
    text = "\n".join(problems)
    assert "1 image (image4): no prediction" in text and "1 image (image1): not measurable" in text


def test_images_without_mat_or_landmarks_are_named_and_the_others_read(tmp_path):
    write_pair(tmp_path, "good", MODEL, 0)
    write_pair(tmp_path, "bare", MODEL, 1, pt3d=False)
    write_pair(tmp_path, "broken", MODEL, 2, Shape_Para=np.full((199, 1), np.nan))
    (tmp_path / "alone.jpg").write_bytes((tmp_path / "good.jpg").read_bytes())
    truth, problems = aflw2000.read_ground_truth(tmp_path)
    assert truth.keys == ["broken", "good"]
    assert np.isnan(truth.alpha).all(axis=1).tolist() == [True, False]
    text = "\n".join(problems)
    assert "(alone, bare): left out" in text and "(broken): not finite" in text


def test_a_folder_without_ground_truth_is_one_message(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        aflw2000.read_ground_truth(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no image with ground truth"):
        aflw2000.read_ground_truth(tmp_path)


def evaluate(folder, output, *arguments):
    return run_python("-m", "scripts.evaluate_aflw2000", f"--data_dir={folder}", f"--output_dir={output}", *arguments)


def test_the_command_writes_metrics_tables_figures_and_errors_by_image(folder, truth, tmp_path):
    shifted = np.swapaxes(truth.landmarks68 + [4.0, 0.0, 0.0], 1, 2)
    names = np.array([f"{key}.jpg" for key in truth.keys])
    np.savez(tmp_path / "a.npz", name=names, alpha=truth.alpha, pixel_origin=0)
    np.savez(tmp_path / "b.npz", name=names, landmarks68=shifted, pixel_origin=0)
    predictions = f"--predictions=exact:{tmp_path / 'a.npz'}", f"--predictions=shifted|4:{tmp_path / 'b.npz'}"
    model = f"--morphable_model={folder.parent / 'model.npz'}"
    process = evaluate(folder, tmp_path / "out", *predictions, model, "--overlays=3")
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["methods"]["exact"]["nme_2d_68"]["mean_of_images"] < 0.05
    row = found["methods"]["shifted|4"]["nme_2d_68"]
    assert row["mean_of_images"] == pytest.approx(np.mean(400 / box_size(truth)), rel=1e-4)
    assert row["count"] == COUNT and "nme_2d_dense" not in found["methods"]["shifted|4"]
    lines = (tmp_path / "out" / "per_image.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * COUNT and lines[0].startswith("method,name,yaw_deg,nme_2d_68")
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "| PRNet † | 2.75 | 3.51 | 4.61 | 3.62 |" in tables and "shifted\\|4" in tables
    for name in ("error_distribution_nme_2d_68", "cumulative_by_yaw_nme_reconstruction", "overlays_exact"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
        assert (tmp_path / "out" / f"{name}.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--predictions=none.npz", "--morphable_model=builtin"], "none.npz: no such file"),
        (["--morphable_model=builtin"], "Give --checkpoint=WORKDIR or --predictions"),
        (["--checkpoint=/nowhere"], "/nowhere: is not the --workdir of a run of twodal_jax.main"),
        (["--predictions=a:{ok}", "--predictions=a:{ok}", "--morphable_model=builtin"], "same label"),
        (["--predictions={ok}"], "Give --morphable_model"),
        (["--predictions={ok}", "--morphable_model=builtin"], "does not fit this data set"),
    ],
)
def test_a_users_error_is_one_message(folder, truth, tmp_path, arguments, message):
    np.savez(tmp_path / "ok.npz", name=np.array(truth.keys), alpha=truth.alpha)
    arguments = [argument.format(ok=tmp_path / "ok.npz") for argument in arguments]
    process = evaluate(folder, tmp_path / "out", *arguments)
    assert process.returncode == 1 and message in process.stderr
    assert "Traceback" not in process.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [[], ["--morphable_model={right}"]])
def test_a_checkpoint_of_another_morphable_model_is_measured_by_its_landmarks(folder, truth, tmp_path, given):
    """A network with a zero last layer predicts the mean coefficients of its own model."""
    other = helpers_model.tiny_model()
    assert not same_mesh(other, MODEL)
    save_morphable_model(tmp_path / "other.npz", other.replace(has_whitening=False))
    config = tiny_config(**{"morphable_model": str(tmp_path / "other.npz"), "regressor.name": "resnet18"})
    (tmp_path / "run").mkdir()
    save_untrained_run(tmp_path / "run", other, config)
    np.savez(tmp_path / "marks.npz", name=np.array(truth.keys), landmarks68=np.swapaxes(truth.landmarks68, 1, 2))
    arguments = [argument.format(right=folder.parent / "model.npz") for argument in given]
    methods = f"--checkpoint={tmp_path / 'run'}", f"--predictions=marks:{tmp_path / 'marks.npz'}"
    process = evaluate(folder, tmp_path / "out", *methods, *arguments, "--overlays=0")
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    row = found["methods"]["run"]
    assert set(row) == {"nme_2d_68", "nme_3d_68"} and row["nme_2d_68"]["count"] == COUNT
    alpha = np.tile(np.asarray(other.alpha_mean), (COUNT, 1)).astype(np.float32)
    points = np.asarray(nme_evaluation.landmarks_image(other, alpha, truth.roi_box))
    expected = metrics.nme(points[..., :2], truth.landmarks68[..., :2], truth.landmarks68)
    assert row["nme_2d_68"]["mean_of_images"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert any("run: only the 68 landmarks are measured" in problem for problem in found["problems"])


@pytest.mark.parametrize(
    "column, message",
    [
        ({"yaw_deg": np.array(["far"])}, r"yaw_deg is <U3 \[1\], expected numbers \[1\]"),
        ({"roi_box": np.zeros((1, 3))}, r"roi_box is float64 \[1, 3\], expected numbers \[1, 4\]"),
        ({"pts68_reannotated": np.zeros((1, 68, 2))}, r"\[1, 68, 2\], expected numbers \[1, '2 or 3', 68\]"),
        ({"split": np.array([1.0])}, r"split is float64 \[1\], expected texts \[1\]"),
        ({"yaw_deg": np.zeros(2)}, r"yaw_deg is float64 \[2\], expected numbers \[1\]"),
    ],
)
def test_a_misshapen_column_of_the_annotations_is_named(tmp_path, column, message):
    write_pair(tmp_path, "good", MODEL, 0)
    np.savez(tmp_path / "annotations.npz", name=np.array(["good"]), **column)
    with pytest.raises(SourceError, match=message):
        aflw2000.read_ground_truth(tmp_path)
