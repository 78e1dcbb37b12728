"""Whole runs in fresh processes: to the end, killed, stopped, and broken."""

import json
import re
import shutil

import pytest
from helpers_run import run_python, shared_compilations

from twodal_jax import run_log
from twodal_jax import train as train_module

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(workdir, events={step: what}, **config overrides) -> finished process.

    Runs share a compilation cache, so that only the first one compiles.
    """
    env = shared_compilations(tmp_path_factory.mktemp("compilation_cache"))

    def start(workdir, events=(), obey_permissions=False, **config):
        settings = {"events": dict(events), "config": config, "obey_permissions": obey_permissions}
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
    history = run_log.read_history(whole[0])
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
    history = [(e["kind"], e["step"]) for e in run_log.read_history(tmp_path)]
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
    for line in (tmp_path / run_log.HISTORY).read_text().splitlines():
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


def test_best_error_is_the_lowest_of_its_own_protocol(tmp_path):
    entries = [
        {"kind": "evaluation", "step": 0, "detected_landmarks/mean_of_bins": 1.0},
        {"kind": "evaluation", "step": 5, "detected_landmarks/mean_of_bins": 5.0,
         "empty_heatmap/mean_of_bins": 4.0},
        {"kind": "evaluation", "step": 6, "detected_landmarks/mean_of_bins": None},
        {"kind": "train", "step": 7, "loss": 0.1},
    ]  # fmt: skip
    (tmp_path / run_log.HISTORY).write_text("".join(json.dumps(e) + "\n" for e in entries))
    assert train_module._best_error_so_far(tmp_path, "detected_landmarks") == 5.0
    assert train_module._best_error_so_far(tmp_path / "none", "detected_landmarks") == float("inf")


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
    history = workdir / run_log.HISTORY
    lines = history.read_text().splitlines()
    cut = [line for line in lines if not (json.loads(line)["kind"] == "evaluation" and json.loads(line)["step"] == 6)]
    assert len(cut) == len(lines) - 1
    history.write_text("\n".join(cut) + "\n")
    shutil.rmtree(workdir / "best")
    assert result(train(workdir))["hash"] == whole[1]["hash"]
    assert [json.loads(line) for line in history.read_text().splitlines()][-1]["kind"] == "evaluation"
    assert sorted(history.read_text().splitlines()) == sorted(lines)


@pytest.mark.parametrize("steps", [([1, 1, 0, 1], 2, (1, 4)), ([0, 1, 1], 5, (2, 2)), ([], 3, (3, 0)), ([1], 0, (1, 1))])
def test_skipped_steps_in_a_row_are_counted_across_log_lines(steps):
    flags, before, expected = steps
    assert train_module._skipped_in_a_row(before, [{"skipped": flag} for flag in flags]) == expected
