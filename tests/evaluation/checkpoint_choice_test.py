"""The best checkpoint has the lowest finite validation error after step 0."""

import dataclasses

import helpers_model
from helpers_run import tiny_config, tiny_data

from twodal_jax.evaluation import checkpoint_choice

NAME = "validation/detected_landmarks"
HISTORY = [
    {"kind": "evaluation", "step": 0, f"{NAME}/mean_of_bins": 1.0},
    {
        "kind": "evaluation",
        "step": 5,
        f"{NAME}/mean_of_bins": 5.0,
        "detected_landmarks/mean_of_bins": 2.0,
        "validation/empty_heatmap/mean_of_bins": 4.0,
    },
    {"kind": "evaluation", "step": 6, f"{NAME}/mean_of_bins": None},
    {"kind": "evaluation", "step": 8, f"{NAME}/mean_of_bins": 5.5, "detected_landmarks/mean_of_bins": 1.0},
    {"kind": "train", "step": 9, "loss": 0.1},
]


def test_the_lowest_validation_error_after_step_0_is_the_best():
    data = tiny_data(helpers_model.tiny_model(), {})
    assert checkpoint_choice.chosen_by(data.validation) == NAME
    assert checkpoint_choice.best(HISTORY, NAME) == (5, 5.0)
    assert checkpoint_choice.lowest_error(HISTORY, data.validation) == 5.0
    assert checkpoint_choice.best(HISTORY[:1], NAME) is None
    assert checkpoint_choice.lowest_error(HISTORY, None) == float("inf")
    assert checkpoint_choice.lowest_error([], data.validation) == float("inf")


def test_only_sets_without_detections_give_a_warning_and_only_if_heatmaps_are_used():
    model = helpers_model.tiny_model()
    detected, without = (tiny_data(model, {}, detected=detected) for detected in (True, False))
    assert checkpoint_choice.chosen_by(without.validation) == "validation/empty_heatmap"
    warnings = checkpoint_choice.without_detections
    assert warnings(tiny_config(), detected.held_out, detected.validation) == []
    (line,) = warnings(tiny_config(), detected.held_out, without.validation)
    assert line.startswith("WARNING: the annotated set") and "heatmap_dropout is 0" in line
    (line,) = warnings(tiny_config(**{"augmentation.heatmap_dropout": 0.5}), without.held_out, None)
    assert line.startswith("WARNING: the evaluation set") and "heatmap_dropout" not in line
    assert warnings(tiny_config(**{"heatmap.enabled": False}), without.held_out, without.validation) == []
    visible = without.held_out.detected_visible.copy()
    visible[1] = 1  # one face with detections is enough
    assert warnings(tiny_config(), dataclasses.replace(without.held_out, detected_visible=visible), None) == []
