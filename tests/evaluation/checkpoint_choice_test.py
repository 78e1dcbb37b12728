"""Which error chooses: the validation part's own, after step 0, finite."""

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


def test_the_lowest_validation_error_after_step_0_chooses():
    data = tiny_data(helpers_model.tiny_model(), {})
    assert checkpoint_choice.chosen_by(data.validation) == NAME
    assert checkpoint_choice.best(HISTORY, NAME) == (5, 5.0)
    assert checkpoint_choice.lowest_error(HISTORY, data.validation) == 5.0
    assert checkpoint_choice.best(HISTORY[:1], NAME) is None
    assert (
        checkpoint_choice.lowest_error(HISTORY, None)
        == checkpoint_choice.lowest_error([], data.validation)
        == float("inf")
    )


def test_a_part_without_detections_chooses_by_an_empty_heatmap():
    data = tiny_data(helpers_model.tiny_model(), {}, detected=False)
    assert checkpoint_choice.chosen_by(data.validation) == "validation/empty_heatmap"


def test_only_sets_without_detections_are_named_and_only_where_a_heatmap_is_shown():
    model = helpers_model.tiny_model()
    with_them, without = (tiny_data(model, {}, detected=detected) for detected in (True, False))
    config = tiny_config()
    assert checkpoint_choice.without_detections(config, with_them.held_out, with_them.validation) == []
    (line,) = checkpoint_choice.without_detections(config, with_them.held_out, without.validation)
    assert line.startswith("WARNING: the annotated set") and "heatmap_dropout is 0" in line
    (line,) = checkpoint_choice.without_detections(
        tiny_config(**{"augmentation.heatmap_dropout": 0.5}), without.held_out, None
    )
    assert line.startswith("WARNING: the evaluation set") and "heatmap_dropout" not in line
    alone = tiny_config(**{"heatmap.enabled": False})
    assert checkpoint_choice.without_detections(alone, without.held_out, without.validation) == []


def test_one_detected_face_makes_the_protocol():
    data = tiny_data(helpers_model.tiny_model(), {}, detected=False)
    visible = data.held_out.detected_visible.copy()
    visible[1] = 1
    some = dataclasses.replace(data.held_out, detected_visible=visible)
    assert checkpoint_choice.without_detections(tiny_config(), some, None) == []
