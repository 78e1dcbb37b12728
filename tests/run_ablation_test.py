"""The ablation command: what it plans, what it trains, and the tables it makes."""

import json

import pytest
from helpers_run import run_python

from scripts import run_ablation
from scripts.run_ablation import Collected, Run

TINY = """
import helpers_model
from configs import demo

def get_config(variant="full"):
    config = demo.get_config(variant)
    config.regressor.name, config.regressor.variant = "resnet10", "standard"
    config.regressor.width = config.critic.width = 0.125
    config.batch_annotated = config.batch_wild = 2
    config.stage1.steps, config.stage2.steps = 2, 2
    for name in ("annotated", "wild", "evaluation"):
        config.data[name].count = 6
    config.run.log_every = config.run.evaluate_every = config.run.checkpoint_every = 2
    config.run.report_faces = 2
    return config
"""


def options(tmp_path, **changes):
    (tmp_path / "tiny.py").write_text(TINY)
    arguments = {"config": tmp_path / "tiny.py", "workdir": tmp_path / "runs"} | changes
    return run_ablation.parse([f"--{name}={value}" for name, value in arguments.items()])


def plan(tmp_path, **changes):
    return [run.folder for run in run_ablation.planned_runs(options(tmp_path, **changes))]


def test_every_combination_is_planned_once(tmp_path):
    found = plan(tmp_path, variants="ss,full", weights="4:2:1,1:1:1", num_wild="100,0", seeds="0,1")
    assert len(found) == len(set(found)) == 16 and "full_w4-2-1_n100_s1" in found


def test_masks_and_wild_images_do_not_multiply_runs_that_ignore_them(tmp_path):
    found = plan(tmp_path, variants="base,sc,3ddfa", weights="4:2:1,1:1:1", num_wild="100,0")
    assert found == [
        "plain_w1-1-1_nall_s0", "sc_w1-1-1_n100_s0", "sc_w1-1-1_nall_s0",
        "3ddfa_w1-1-1_n100_s0", "3ddfa_w1-1-1_nall_s0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes, message",
    [({"variants": "base,bad"}, "unknown bad"), ({"weights": "4:2"}, "red:pink:yellow"),
     ({"seeds": "x"}, "whole numbers"), ({"config": "nowhere.py"}, "no such file")],
)  # fmt: skip
def test_wrong_options_are_named(tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit):
        options(tmp_path, **changes)
    assert message in capsys.readouterr().err


def write_result(workdir, run, stage1, stage2, dense):
    def by(value, **more):
        return {"detected_landmarks": {"nme_2d_68": {"mean_of_bins": value}, **more}}

    last = by(stage2, nme_3d_dense={"mean_of_bins": dense})
    folder = workdir / run.folder
    folder.mkdir(parents=True)
    content = {"final": last, "by_stage": {"after stage 1": by(stage1), "after stage 2": last}}
    (folder / "metrics.json").write_text(json.dumps(content))


def test_tables_hold_mean_and_spread_over_seeds_and_the_papers_figures(tmp_path):
    runs = [Run("full", mask, n, seed) for mask in ("1:1:1", "4:2:1") for n in (100, 0) for seed in (0, 1)]
    runs += [Run("plain", "1:1:1", 0, seed) for seed in (0, 1)]
    for run in runs:
        value = 4.0 + run.seed + (run.weights == "1:1:1") * 0.5 + (run.variant == "plain") * 2
        write_result(tmp_path, run, value + 1, value, 9.0)
    found = Collected(runs, tmp_path)
    assert "| 2DAL (ss+sc) | 4:2:1 | 100 | 5.50 ± 0.71 | 4.50 ± 0.71 | 9.00 ± 0.00 | 2 |" in found.overview()
    assert "| 2DAL (base) | 1:1:1 | all | 8.00 ± 0.71 | 7.00 ± 0.71 |" in found.overview()
    assert "| Stage 2 | 5.00 ± 0.71 | 4.50 ± 0.71 |" in found.table_3()
    assert "| Stage 2 † | 3.94 | 3.52 | 3.39 |" in found.table_3()
    assert "| 2DAL † | 3.83 | 3.64 | 3.52 | 3.39 |" in found.table_2()
    found.save_figures(tmp_path)
    assert (tmp_path / "ablation_nme_2d_68_w4-2-1.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_command_trains_what_is_missing_and_keeps_what_is_there(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)

    def command(variants):
        return run_python(
            "-m", "scripts.run_ablation", f"--config={tmp_path / 'tiny.py'}",
            f"--workdir={tmp_path / 'runs'}", f"--variants={variants}",
        )  # fmt: skip

    first = command("base,defa")
    assert first.returncode == 0, first.stderr[-3000:]
    kept = (tmp_path / "runs" / "plain_w1-1-1_nall_s0" / "metrics.json").stat().st_mtime_ns
    assert "2DAL (base)" in first.stdout and "DeFA-style" in first.stdout
    again = command("base,defa")
    assert again.returncode == 0 and again.stderr.count("finished before") == 2
    path = tmp_path / "runs" / "plain_w1-1-1_nall_s0" / "metrics.json"
    assert path.stat().st_mtime_ns == kept
    table = json.loads((tmp_path / "runs" / "ablation.json").read_text())
    assert len(table["runs"]) == 2 and table["runs"][0]["nme"]["nme_3d_dense"]["stage 2"] > 0
