"""Whole runs in fresh processes: to the end, stopped, resumed, and with broken batches."""

import json
import re
import shutil

import helpers_model
import pytest
from helpers_run import result, tiny_config, tiny_data, train_tiny

from twodal_jax import train as train_module
from twodal_jax.training import builder, metric_logger
from twodal_jax.training.state import WILD_LOSSES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(work directory, output) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, result(train_tiny(workdir))


def history_of(workdir, kind):
    return [entry for entry in metric_logger.read_history(workdir) if entry["kind"] == kind]


def metrics_of(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_a_run_needs_no_tensorflow_and_writes_results_config_report_and_checkpoints(whole):
    workdir, printed = whole
    assert printed["tensorflow"] is False
    metrics = metrics_of(workdir)
    assert metrics["step"] == 6 and metrics["skipped_steps"] == 0
    for protocol in ("detected_landmarks", "empty_heatmap"):
        assert metrics["final"][protocol]["nme_2d_68"]["mean_of_bins"] > 0
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["regressor"]["name"] == "resnet10"
    assert "<html" in (workdir / "report.html").read_text()[:2000].lower()
    assert list((workdir / "tensorboard").glob("events*"))
    assert list((workdir / "checkpoints").iterdir()) and list((workdir / "best").iterdir())


def test_the_history_has_every_loss_and_evaluation_once(whole):
    losses, evaluations = history_of(whole[0], "train"), history_of(whole[0], "evaluation")
    assert [entry["step"] for entry in losses] == [2, 4, 6]
    assert [entry["step"] for entry in evaluations] == [0, 3, 4, 6]
    expected = {"loss", "loss_3d", "loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc", "loss_sc_critic"}
    assert expected | {"learning_rate", "images_per_second", "weight_loss_3d"} <= set(losses[0])
    assert "loss_vdc" in losses[-1]


# Batches are fetched one step ahead: one run stops between checkpoints, the other at one.
@pytest.mark.parametrize("step", [4, 5])
def test_a_run_that_is_asked_to_stop_saves_and_resumes_bit_identical(whole, tmp_path, step):
    stopped = train_tiny(tmp_path, events={step: "SIGTERM"})
    assert stopped.returncode == 128 + 15, stopped.stderr[-3000:]
    assert re.search(rf"Stopped at step ({step - 1}|{step});", stopped.stderr)
    assert "Traceback" not in stopped.stderr
    assert result(train_tiny(tmp_path))["hash"] == whole[1]["hash"]


def test_a_finished_run_started_again_only_writes_its_report(whole):
    workdir, printed = whole
    (workdir / "report.html").unlink()
    assert result(train_tiny(workdir))["hash"] == printed["hash"]
    assert (workdir / "report.html").exists()


def test_single_broken_batches_are_skipped_and_counted(tmp_path):
    def reject(name):
        raise AssertionError(f"history.jsonl holds {name}, which is not JSON")

    result(train_tiny(tmp_path, events={1: "nan", 4: "nan"}))
    assert metrics_of(tmp_path)["skipped_steps"] == 2
    for line in (tmp_path / metric_logger.HISTORY).read_text().splitlines():
        json.loads(line, parse_constant=reject)
    assert "2 step(s) were skipped" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "steps, config",
    [
        ((2, 3, 4), {"run.max_skipped_in_a_row": 3}),
        # Checked after steps 4 and 8, when fewer than four of the latest steps were skipped.
        ((2, 3, 4, 5), {"run.max_skipped_in_a_row": 4, "run.log_every": 100, "stage1.steps": 8}),
    ],
    ids=["checked at the last one", "checked later"],
)
def test_too_many_consecutive_broken_batches_stop_the_run(tmp_path, steps, config):
    process = train_tiny(tmp_path, config, {step: "nan" for step in steps})
    assert process.returncode == 3, process.stderr[-3000:]
    assert f"not finite in {len(steps)} steps in a row" in process.stderr and "another --workdir" in process.stderr


def test_another_config_in_the_same_folder_is_refused(whole):
    process = train_tiny(whole[0], {"seed": 1})
    assert process.returncode == 4
    assert "seed: 0 in the checkpoint, 1 in this run" in process.stderr


def test_the_best_state_is_chosen_by_the_validation_error_and_not_by_the_test_error(whole):
    workdir, _ = whole
    name = "validation/detected_landmarks/mean_of_bins"
    errors = {entry["step"]: entry[name] for entry in history_of(workdir, "evaluation") if entry["step"]}
    best = min(errors, key=errors.get)
    assert [path.name for path in (workdir / "best").iterdir()] == [str(best)]
    metrics = metrics_of(workdir)
    assert metrics["validation"]["best_step"] == best and metrics["validation"]["faces"] == 3
    after = metrics["validation"]["by_stage"]["after stage 2"]["detected_landmarks"]["nme_2d_68"]
    assert after["mean_of_bins"] == errors[6]
    assert set(metrics["final"]) == {"detected_landmarks", "empty_heatmap"}
    page = (workdir / "report.html").read_text()
    assert "Validation part, detected landmarks" in page and f"step {best}, {errors[best]:.2f} %" in page


def test_without_a_validation_part_there_is_no_best_state(tmp_path):
    result(train_tiny(tmp_path, {"validation_faces": 0}, detected=False))
    assert not (tmp_path / "best").exists()
    names = {name for entry in metric_logger.read_history(tmp_path) for name in entry}
    assert "empty_heatmap/mean_of_bins" in names and not any(name.startswith("validation") for name in names)
    assert metrics_of(tmp_path)["validation"] is None
    page = (tmp_path / "report.html").read_text()
    assert "no validation part" in page and "Validation part" not in page
    assert "Image alone (no detections in the set)" in page and "Detected landmarks" not in page


def test_sets_without_detections_are_reported_at_the_start_with_the_command_that_adds_them(tmp_path):
    config = {"stage1.steps": 1, "stage2.steps": 0, "data.evaluation.input": "photos"}
    process = train_tiny(tmp_path, config, detected=False)
    result(process)
    lines = [line for line in process.stderr.splitlines() if line.startswith("WARNING")]
    assert [line.split(" has no detected landmarks")[0] for line in lines] == [
        "WARNING: the evaluation set",
        "WARNING: the annotated set",
    ]
    assert "not the paper's protocol" in lines[0] and "heatmap_dropout is 0" in lines[0]
    assert "prepare_data mat --input=photos" in lines[0] and "--detect=face-alignment" in lines[0]
    assert "--config.data.evaluation.folder=NEW_FOLDER" in lines[0] and "validation" in lines[1]
    assert process.stderr.index("WARNING") < process.stderr.index("stage1 step 1/1")
    assert "validation, empty heatmap" in process.stderr


def test_data_without_the_configs_validation_part_is_refused(tmp_path):
    model = helpers_model.tiny_model()
    with pytest.raises(builder.ConfigError, match="validation_faces is 3, but TrainingData.validation is None"):
        train_module.train_and_evaluate(tiny_config(), tmp_path, tiny_data(model, {}, validation=False), model)


@pytest.mark.parametrize("stop_after", [4, 5], ids=["at the end of stage 1", "in stage 2"])
def test_wild_faces_are_not_read_in_a_stage_without_a_loss_on_them(whole, tmp_path, stop_after):
    assert whole[1]["wild_starts"] == [0]  # stage 2, from step 4 on, has VDC alone
    assert train_tiny(tmp_path, {"run.stop_after": stop_after}).returncode == 0
    assert result(train_tiny(tmp_path)) == whole[1] | {"wild_starts": []}


def test_wild_faces_are_read_from_the_first_stage_with_a_loss_on_them(tmp_path):
    config = {f"stage1.loss_weights.{loss}": 0.0 for loss in WILD_LOSSES} | {"stage2.loss_weights.loss_cyc": 1.0}
    straight = result(train_tiny(tmp_path / "straight", config))
    assert straight["wild_starts"] == [4]
    assert train_tiny(tmp_path / "stopped", config | {"run.stop_after": 5}).returncode == 0
    assert result(train_tiny(tmp_path / "stopped", config)) == straight | {"wild_starts": [5]}


def test_a_resumed_run_makes_an_evaluation_that_a_signal_prevented(whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    history = workdir / metric_logger.HISTORY
    lines = history.read_text().splitlines()
    kept = [line for line in lines if not (json.loads(line)["kind"] == "evaluation" and json.loads(line)["step"] == 6)]
    assert len(kept) == len(lines) - 1
    history.write_text("\n".join(kept) + "\n")
    shutil.rmtree(workdir / "best")
    assert result(train_tiny(workdir))["hash"] == whole[1]["hash"]
    resumed = history.read_text().splitlines()
    assert json.loads(resumed[-1])["kind"] == "evaluation" and sorted(resumed) == sorted(lines)


def test_means_leave_skipped_steps_out():
    nan = float("nan")
    window = [{"loss": 1.0, "odd": nan}, {"loss": nan, "odd": nan}, {"loss": 3.0, "odd": nan}]
    assert train_module._mean_of_finite(window, "loss") == 2.0
    assert train_module._mean_of_finite(window, "odd") is None


@pytest.mark.parametrize(
    "flags, before, expected", [([1, 1, 0, 1], 2, (1, 4)), ([0, 1, 1], 5, (2, 2)), ([], 3, (3, 0)), ([1], 0, (1, 1))]
)
def test_consecutive_skipped_steps_are_counted_across_windows(flags, before, expected):
    assert train_module._skipped_in_a_row(before, [{"skipped": flag} for flag in flags]) == expected
