"""Whole runs in fresh processes: to the end, killed, stopped, and broken."""

import json
import re
import shutil

import helpers_model
import pytest
from helpers_run import run_python, shared_compilations, tiny_config, tiny_data

from twodal_jax import train as train_module
from twodal_jax.training import builder, metric_logger
from twodal_jax.training.state import WILD_LOSSES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(workdir, events={step: what}, **config overrides) -> finished process.

    Runs share a compilation cache, so that only the first one compiles.
    """
    env = shared_compilations(tmp_path_factory.mktemp("compilation_cache"))

    def start(workdir, events=(), obey_permissions=False, detected=True, **config):
        settings = {
            "events": dict(events),
            "config": config,
            "obey_permissions": obey_permissions,
            "detected": detected,
        }
        settings = json.dumps(settings)
        return run_python("tests/helpers_run.py", workdir, settings, env=env)

    return start


def result(process):
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """(work directory, what it printed) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, result(train(workdir))


def test_a_run_needs_no_tensorflow_and_leaves_everything_in_its_folder(whole):
    workdir, printed = whole
    assert printed["tensorflow"] is False
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["step"] == 6 and metrics["skipped_steps"] == 0
    for protocol in ("detected_landmarks", "empty_heatmap"):
        assert metrics["final"][protocol]["nme_2d_68"]["mean_of_bins"] > 0
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["regressor"]["name"] == "resnet10"
    assert "<html" in (workdir / "report.html").read_text()[:2000].lower()
    assert list((workdir / "tensorboard").glob("events*"))
    assert list((workdir / "checkpoints").iterdir()) and list((workdir / "best").iterdir())


def test_history_has_every_loss_and_evaluation_once(whole):
    history = metric_logger.read_history(whole[0])
    train_steps = [entry["step"] for entry in history if entry["kind"] == "train"]
    assert train_steps == [2, 4, 6]
    evaluated = [entry["step"] for entry in history if entry["kind"] == "evaluation"]
    assert evaluated == [0, 3, 4, 6]
    first = next(entry for entry in history if entry["kind"] == "train")
    expected = {"loss", "loss_3d", "loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc", "loss_sc_critic"}
    assert expected | {"learning_rate", "images_per_second", "weight_loss_3d"} <= set(first)
    assert "loss_vdc" in history[-2] or "loss_vdc" in history[-1]


@pytest.mark.parametrize("step", [4, 6])
def test_a_run_killed_and_started_again_ends_bit_identical(train, whole, tmp_path, step):
    assert train(tmp_path, {step: "SIGKILL"}).returncode == -9
    assert not (tmp_path / "metrics.json").exists()
    assert result(train(tmp_path))["hash"] == whole[1]["hash"]
    history = [(e["kind"], e["step"]) for e in metric_logger.read_history(tmp_path)]
    assert len(history) == len(set(history))


# Batches are fetched one step ahead: one run stops between checkpoints, the other on one.
@pytest.mark.parametrize("step", [4, 5])
def test_a_run_that_is_asked_to_stop_saves_and_continues_bit_identical(train, whole, tmp_path, step):
    stopped = train(tmp_path, {step: "SIGTERM"})
    assert stopped.returncode == 128 + 15, stopped.stderr[-3000:]
    assert re.search(rf"Stopped at step ({step - 1}|{step});", stopped.stderr)
    assert "Traceback" not in stopped.stderr
    assert result(train(tmp_path))["hash"] == whole[1]["hash"]


def test_a_finished_run_started_again_only_writes_its_report(train, whole):
    workdir, printed = whole
    (workdir / "report.html").unlink()
    assert result(train(workdir))["hash"] == printed["hash"]
    assert (workdir / "report.html").exists()


def test_single_broken_batches_are_skipped_and_counted(train, tmp_path):
    result(train(tmp_path, {1: "nan", 4: "nan"}))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["skipped_steps"] == 2
    for line in (tmp_path / metric_logger.HISTORY).read_text().splitlines():
        json.loads(line, parse_constant=_no_constant)
    assert "2 step(s) were skipped" in (tmp_path / "report.html").read_text()


def _no_constant(name):
    raise AssertionError(f"history.jsonl holds {name}, which is not JSON")


def test_too_many_broken_batches_in_a_row_stop_the_run_with_a_clear_error(train, tmp_path):
    events = {step: "nan" for step in (2, 3, 4)}
    process = train(tmp_path, events, **{"run.max_skipped_in_a_row": 3})
    assert process.returncode == 3, process.stderr[-3000:]
    assert "NotFinite: Stopped at step 4" in process.stderr and "3 steps in a row" in process.stderr


def test_another_config_in_the_same_folder_is_refused(train, whole):
    process = train(whole[0], **{"seed": 1})
    assert process.returncode != 0
    assert "seed: 0 there, 1 here" in process.stderr


def test_the_best_state_is_that_of_the_lowest_validation_error_whatever_the_test_error_is(whole):
    workdir, _ = whole
    history = [
        entry for entry in metric_logger.read_history(workdir) if entry["kind"] == "evaluation" and entry["step"]
    ]
    errors = {entry["step"]: entry["validation/detected_landmarks/mean_of_bins"] for entry in history}
    best = min(errors, key=errors.get)
    assert [path.name for path in (workdir / "best").iterdir()] == [str(best)]
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["validation"]["best_step"] == best and metrics["validation"]["faces"] == 3
    after = metrics["validation"]["by_stage"]["after stage 2"]["detected_landmarks"]["nme_2d_68"]
    assert after["mean_of_bins"] == errors[6]
    assert set(metrics["final"]) == {"detected_landmarks", "empty_heatmap"}
    page = (workdir / "report.html").read_text()
    assert "Validation part, detected landmarks" in page and f"step {best}, {errors[best]:.2f} %" in page


def test_without_a_validation_part_nothing_chooses_and_the_last_state_is_the_result(train, tmp_path):
    result(train(tmp_path, detected=False, validation_faces=0))
    assert not (tmp_path / "best").exists()
    names = {name for entry in metric_logger.read_history(tmp_path) for name in entry}
    assert "empty_heatmap/mean_of_bins" in names and not any(name.startswith("validation") for name in names)
    assert json.loads((tmp_path / "metrics.json").read_text())["validation"] is None
    page = (tmp_path / "report.html").read_text()
    assert "no validation part" in page and "Validation part" not in page
    assert "Image alone (no detections in the set)" in page and "Detected landmarks" not in page


def test_a_set_without_detections_is_named_at_the_start_with_the_command_that_makes_them(train, whole, tmp_path):
    config = {"stage1.steps": 1, "stage2.steps": 0, "data.evaluation.input": "photos"}
    process = train(tmp_path, detected=False, **config)
    result(process)
    lines = [line for line in process.stderr.splitlines() if line.startswith("WARNING")]
    assert [line.split(" has no detected landmarks")[0] for line in lines] == [
        "WARNING: the evaluation set",
        "WARNING: the annotated set",
    ]
    assert "not of the paper's protocol" in lines[0] and "heatmap_dropout is 0" in lines[0]
    assert "prepare_data mat --input=photos" in lines[0] and "--detect=face-alignment" in lines[0]
    assert "--config.data.evaluation.folder=NEW_FOLDER" in lines[0] and "validation" in lines[1]
    assert process.stderr.index("WARNING") < process.stderr.index("stage1 step 1/1")
    assert "validation, empty heatmap" in process.stderr


def test_data_without_the_validation_part_a_config_asks_for_is_refused(tmp_path):
    model = helpers_model.tiny_model()
    with pytest.raises(builder.ConfigError, match="validation_faces is 3, but TrainingData.validation is None"):
        train_module.train_and_evaluate(tiny_config(), tmp_path, tiny_data(model, {}, validation=False), model)


def test_wild_faces_are_read_in_stages_with_a_wild_loss_alone(train, whole, tmp_path):
    assert whole[1]["wild_starts"] == [0]  # stage 2, VDC alone, from step 4 on
    for name, config in (("boundary", {"run.stop_after": 4}), ("inside", {"run.stop_after": 5})):
        assert train(tmp_path / name, **config).returncode == 0
        finished = result(train(tmp_path / name))
        assert finished == {**whole[1], "wild_starts": []}
    annotated_first = {f"stage1.loss_weights.{loss}": 0.0 for loss in WILD_LOSSES}
    annotated_first |= {"stage2.loss_weights.loss_cyc": 1.0}
    straight = result(train(tmp_path / "late", **annotated_first))
    assert straight["wild_starts"] == [4]
    assert train(tmp_path / "stopped", **annotated_first, **{"run.stop_after": 5}).returncode == 0
    assert result(train(tmp_path / "stopped", **annotated_first)) == {**straight, "wild_starts": [5]}


def test_means_leave_skipped_steps_out():
    nan = float("nan")
    window = [{"loss": 1.0, "odd": nan}, {"loss": nan, "odd": nan}, {"loss": 3.0, "odd": nan}]
    assert train_module._mean_of_finite(window, "loss") == 2.0
    assert train_module._mean_of_finite(window, "odd") is None


def test_broken_batches_in_a_row_stop_the_run_wherever_they_fall_between_two_looks(train, tmp_path):
    events = {step: "nan" for step in (2, 3, 4, 5)}  # looked at after steps 4 and 8, where fewer were the latest
    settings = {"run.max_skipped_in_a_row": 4, "run.log_every": 100, "stage1.steps": 8}
    process = train(tmp_path, events, **settings)
    assert process.returncode == 3, process.stderr[-3000:]
    assert "not finite in 4 steps in a row" in process.stderr and "another --workdir" in process.stderr


def test_an_evaluation_that_a_signal_cut_off_is_made_up_for(train, whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    history = workdir / metric_logger.HISTORY
    lines = history.read_text().splitlines()
    cut = [line for line in lines if not (json.loads(line)["kind"] == "evaluation" and json.loads(line)["step"] == 6)]
    assert len(cut) == len(lines) - 1
    history.write_text("\n".join(cut) + "\n")
    shutil.rmtree(workdir / "best")
    assert result(train(workdir))["hash"] == whole[1]["hash"]
    assert [json.loads(line) for line in history.read_text().splitlines()][-1]["kind"] == "evaluation"
    assert sorted(history.read_text().splitlines()) == sorted(lines)


@pytest.mark.parametrize(
    "steps", [([1, 1, 0, 1], 2, (1, 4)), ([0, 1, 1], 5, (2, 2)), ([], 3, (3, 0)), ([1], 0, (1, 1))]
)
def test_skipped_steps_in_a_row_are_counted_across_log_lines(steps):
    flags, before, expected = steps
    assert train_module._skipped_in_a_row(before, [{"skipped": flag} for flag in flags]) == expected
