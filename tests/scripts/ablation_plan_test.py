"""Rows of the ablation, and the command lines of its runs."""

import pathlib

import pytest
from helpers_run import ROOT

from configs import aflw
from configs.variants import VARIANTS
from scripts import ablation_plan
from scripts.ablation_plan import Row, Run
from twodal_jax.training import builder
from twodal_jax.training.state import WILD_LOSSES

AFLW = str(ROOT / "configs" / "aflw.py")


def configured(run, *, same_input=True):
    """The config of a run's command line."""
    config = aflw.get_config(run.row.config_variant)
    arguments = ablation_plan.run_arguments(
        run, AFLW, aflw.get_config(), "runs/ablation", same_input=same_input, extra=[]
    )
    assert arguments[2] == f"--config={AFLW}:{run.row.config_variant}"
    for flag in arguments[4:]:
        name, value = flag.removeprefix("--config.").split("=")
        *parents, field = name.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        assert field in node, name
        kept = node[field]
        if isinstance(kept, bool):
            node[field] = value == "True"
        elif isinstance(kept, tuple):
            node[field] = tuple(float(part) for part in value.strip("()").split(","))
        else:
            node[field] = type(kept)(value)
    return config


ALL_ROWS = ablation_plan.planned_rows(list(VARIANTS), [True, False], [""], [0])
EACH_ROW = pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: row.folder)


def test_every_variant_is_planned_with_and_without_extras():
    assert len(ALL_ROWS) == 2 * len(VARIANTS) == len({row.folder for row in ALL_ROWS})


def test_masks_and_numbers_of_wild_images_multiply_only_rows_that_use_them():
    rows = ablation_plan.planned_rows(["plain", "sc", "3ddfa", "full"], [True], ["4:2:1", "1:1:1"], [100, 0])
    assert [row.folder for row in rows] == [
        "plain",
        "sc_n100",
        "sc",
        "3ddfa_n100",
        "3ddfa",
        "full_w4-2-1_n100",
        "full_w4-2-1",
        "full_w1-1-1_n100",
        "full_w1-1-1",
    ]


@EACH_ROW
def test_all_rows_have_equal_steps_images_input_and_augmentation(row):
    config = configured(Run(row, 0, 900))
    assert (config.stage1.steps, config.stage2.steps) == (253, 647)  # 4,500 and 11,500 of 16,000
    wild = [any(builder.loss_weights(config, config[s])[n] for n in WILD_LOSSES) for s in ("stage1", "stage2")]
    assert wild[0] == wild[1], "without wild images in one stage a row would see fewer images there"
    assert config.batch_annotated + config.batch_wild * wild[0] == 32
    assert config.heatmap.enabled and config.augmentation == configured(Run(ALL_ROWS[0], 0, 900)).augmentation


@EACH_ROW
def test_each_row_differs_from_full_in_its_losses_only(row):
    def losses(variant):
        config = configured(Run(Row(variant, row.extras), 0, 900))
        return [builder.loss_weights(config, config[stage]) for stage in ("stage1", "stage2")]

    removed = {
        "full": set(),
        "ss": {"loss_sc"},
        "sc": set(WILD_LOSSES) - {"loss_sc"},
        "plain": set(WILD_LOSSES),
        "base+reproj": set(WILD_LOSSES) - {"loss_2d_con"},
        "no-2d-con": {"loss_2d_con"},
        "no-3d-con": {"loss_3d_con"},
        "no-cyc": {"loss_cyc"},
        "3ddfa": set(WILD_LOSSES) - {"loss_2d_con"},
    }
    if row.variant in removed:
        for own, full in zip(losses(row.variant), losses("full")):
            assert own == full | dict.fromkeys(removed[row.variant], 0.0)
    extras = configured(Run(row, 0, 900)), configured(Run(Row("full", row.extras), 0, 900))
    assert extras[0].optimizer == extras[1].optimizer and extras[0].regressor == extras[1].regressor


def test_extras_off_is_the_papers_network_and_optimizer_on_the_same_schedule():
    on, off = (configured(Run(Row("full", extras), 0, 900)) for extras in (True, False))
    assert on.optimizer.name == "muon" and on.regressor.variant == "keypoints" and on.normalize_by_visibility
    assert (off.optimizer.name, off.regressor.variant, off.jaw_weight) == ("sgd", "standard", 0.0)
    assert not off.normalize_by_visibility and not off.learn_landmark_offsets and off.yaw_oversampling_wild == (1, 1, 1)
    assert off.optimizer.decay == on.optimizer.decay == "linear" and off.stage2 == on.stage2


def test_without_the_same_input_rows_see_what_the_paper_defines():
    seen = {v: configured(Run(Row(v, True), 0, 900), same_input=False).heatmap.enabled for v in VARIANTS}
    assert [name for name, heatmap in seen.items() if not heatmap] == ["sc", "plain", "base+reproj", "3ddfa", "defa"]


def test_tuning_runs_hold_out_validation_faces_and_never_see_the_test_set():
    tuning, final = (configured(Run(Row("ss", True), 0, 300, 3.0, tuning)) for tuning in (True, False))
    assert (tuning.validation_faces, final.validation_faces) == (100, 0)
    assert tuning.data.evaluation.folder == tuning.data.annotated.folder == "runs/ablation/data/annotated"
    assert final.data.evaluation.folder == "runs/ablation/data/evaluation" and not final.data.evaluation.limit


def test_the_factor_multiplies_every_rate_of_the_schedule():
    schedules = [
        builder.learning_rate_schedule(configured(Run(Row("full", True), 0, 900, factor))) for factor in (1.0, 3.0)
    ]
    for step in (0, 20, 100, 899):
        assert float(schedules[1](step)) == pytest.approx(3 * float(schedules[0](step)), rel=1e-4)
    assert ablation_plan.learning_rate(aflw.get_config(), 3.0) == pytest.approx(9e-3)


def test_runs_of_different_rates_seeds_and_kinds_have_different_folders():
    row = Row("base+reproj", False, num_wild=5000)
    runs = [Run(row, seed, 300, factor, tuning) for seed in (0, 1) for factor in (1 / 3, 1.0) for tuning in (0, 1)]
    assert len({run.folder for run in runs}) == 8
    assert runs[0].folder == "base+reproj-no-extras_n5000_lr0.333_s0"
    assert all(pathlib.PurePath(run.folder).name == run.folder for run in runs)


def test_steps_are_divided_as_in_the_config_and_no_stage_loses_all():
    config = aflw.get_config()
    assert ablation_plan.stage_steps(config, 16_000) == (4500, 11_500)
    assert ablation_plan.stage_steps(config, 2) == (1, 1)
    config.stage1.steps = 0
    assert ablation_plan.stage_steps(config, 50) == (0, 50)
