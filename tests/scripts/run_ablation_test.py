"""The ablation command: its options, the choice of a learning rate, and small ablations."""

import json
import signal

import pytest
from helpers_run import Program, run_python, saved_steps

from scripts import run_ablation
from scripts.ablation_plan import Row

TINY = """
import helpers_model
from configs import demo

def get_config(variant="full"):
    config = demo.get_config(variant)
    config.regressor.name, config.regressor.width = "resnet10", 0.125
    config.critic.width = 0.125
    config.batch_annotated = config.batch_wild = 2
    config.stage1.steps, config.stage2.steps = 0, 2  # a single stage halves the time of compilation
    for name, count in (("annotated", 40), ("wild", 6), ("evaluation", 6)):
        config.data[name].count = count
    config.run.log_every = config.run.checkpoint_every = 2
    config.run.report_faces = 2
    return config
"""


def options(tmp_path, **changes):
    (tmp_path / "tiny.py").write_text(TINY)
    arguments = {"config": tmp_path / "tiny.py", "workdir": tmp_path / "runs"} | changes
    return run_ablation.parse([f"--{name}={value}" for name, value in arguments.items()])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rows": "base,bad"}, "--rows: expected some of full"),
        ({"rows": "base-no-extras"}, "--rows: expected some of full"),
        ({"weights": "4:2"}, "--weights: expected masks such as 4:2:1"),
        ({"seeds": "x"}, "--seeds: expected whole"),
        ({"extras": "maybe"}, "--extras: expected on, off or both"),
        ({"rates": "0,1"}, "--rates: expected positive"),
        ({"reference": "bad"}, "--reference: expected one of"),
        ({"config": "nowhere.py"}, "no such file"),
    ],
)
def test_invalid_options_are_named(tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit):
        options(tmp_path, **changes)
    assert message in capsys.readouterr().err


def test_aliases_of_a_row_do_not_repeat_it(tmp_path):
    found = run_ablation.open_ablation(options(tmp_path, rows="ss,no-sc,ss+sc,full", extras="off"))
    assert found.rows == [Row("ss", False), Row("full", False)]


def test_the_plan_counts_the_remaining_steps_and_trains_nothing(tmp_path, capsys):
    wanted = options(tmp_path, rows="base,ss", extras="on", seeds="0,1", steps=100)
    finished = tmp_path / "runs" / "ss_lr1_s1" / "metrics.json"
    finished.parent.mkdir(parents=True)
    finished.write_text("{}")
    shown = run_ablation.plan_text(run_ablation.open_ablation(wanted))
    assert "ss_lr1_s1: 100 steps, finished" in shown and "ss_lr1_s0: 100 steps\n" in shown
    assert "4 final runs: 2 rows, 2 seeds" in shown and "300 steps to train" in shown
    settings = "--rows=base,ss --seeds=0,1 --extras=on --steps=3600 --tune --rates=1,3 --dry_run --seconds_per_step=0.5"
    run_ablation.run_ablation(command(tmp_path, *settings.split())[2:])
    shown = capsys.readouterr().out
    assert "4 tuning runs" in shown and "about 19,200 steps to train, about 2.7 hours" in shown  # 4 x 1200 + 4 x 3600
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["ss_lr1_s1"]


def test_the_rate_with_the_lowest_validation_error_is_chosen():
    errors = {0.5: 4.2, 1.0: 4.0, 2.0: 4.5}
    assert run_ablation.tune_row(list(errors), errors.__getitem__) == (1.0, errors)


@pytest.mark.parametrize("best", [0.2, 7.0])
def test_further_rates_are_tried_while_the_best_is_the_lowest_or_highest(best):
    chosen, tried = run_ablation.tune_row([0.5, 1.0, 2.0], lambda factor: abs(factor - best))
    assert abs(chosen - best) == min(abs(2.0**power - best) for power in range(-9, 9))
    assert min(tried) < chosen < max(tried)


def test_the_number_of_further_rates_is_limited():
    _, tried = run_ablation.tune_row([1.0, 2.0], lambda factor: -factor)
    assert sorted(tried) == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_the_validation_error_of_a_diverged_run_is_infinite(tmp_path):
    entries = [{"kind": "evaluation", "step": 9, "validation/empty_heatmap/mean_of_bins": 3.0}]
    entries += [{"kind": "evaluation", "step": 18, "validation/empty_heatmap/mean_of_bins": None}]
    history = tmp_path / "history.jsonl"
    history.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert run_ablation.validation_error(tmp_path) == float("inf")
    history.write_text(json.dumps(entries[0]) + "\n")
    assert run_ablation.validation_error(tmp_path) == 3.0
    history.write_text(json.dumps({"kind": "evaluation", "step": 9, "empty_heatmap/mean_of_bins": 3.0}) + "\n")
    with pytest.raises(run_ablation.cli.UsageError, match="no validation error"):
        run_ablation.validation_error(tmp_path)


def command(tmp_path, *arguments):
    return [
        "-m",
        "scripts.run_ablation",
        f"--config={tmp_path / 'tiny.py'}",
        f"--workdir={tmp_path / 'runs'}",
        *arguments,
    ]


@pytest.mark.slow
def test_the_command_tunes_and_trains_a_row_and_keeps_finished_runs(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    runs = tmp_path / "runs"
    arguments = command(tmp_path, "--rows=base", "--extras=off", "--seeds=0", "--tune", "--rates=2", "--tune_steps=1")
    first = run_python(*arguments)
    assert first.returncode == 0, first.stderr[-3000:]
    assert first.stdout.endswith((runs / "ablation.md").read_text() + "\n") and "Not complete" not in first.stdout
    found = json.loads((runs / "ablation.json").read_text())
    (row,), (result,), (tuned,) = found["rows"], found["runs"], found["tuning"]
    assert (row["factor"], row["steps"], row["seeds"], row["images_a_step"]) == (2.0, 2, [0], [4, 0])
    assert tuned["chosen"] == 2.0 and tuned["trials"][0]["validation_error"] > 0

    final = runs / "plain-no-extras_lr2_s0" / "metrics.json"
    own = json.loads(final.read_text())["final"]["empty_heatmap"]["nme_2d_68"]["mean_of_bins"]
    assert result["nme"]["empty_heatmap"]["mean_of_bins"] == row["protocols"]["empty_heatmap"]["nme"]["mean"] == own
    tuning = json.loads((runs / "tune1_plain-no-extras_lr2_s0" / "config.json").read_text())
    assert tuning["data"]["evaluation"]["source"] == tuning["data"]["annotated"]["source"]

    kept = final.stat().st_mtime_ns
    again = run_python(*arguments)
    assert again.returncode == 0 and again.stderr.count("finished before") == 2
    assert final.stat().st_mtime_ns == kept
    other = run_python(*arguments, "--steps=3")
    assert other.returncode == 1 and "was trained by another command" in other.stderr


@pytest.mark.slow
def test_on_a_signal_the_current_run_saves_its_state(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    arguments = command(tmp_path, "--rows=base", "--extras=off", "--seeds=0", "--steps=4000")
    folder = tmp_path / "runs" / "plain-no-extras_lr1_s0"
    with Program(*arguments) as process:
        history = folder / "history.jsonl"
        process.wait_until(lambda: history.is_file() and '"train"' in history.read_text())
        process.send_signal(signal.SIGTERM)
        ended = process.finish(60)
    assert ended.returncode == 1 and "The same command resumes the ablation" in ended.stderr
    assert saved_steps(folder) and not (folder / "metrics.json").exists()
