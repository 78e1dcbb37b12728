"""Statistics of the ablation, compared with SciPy and a worked example; and its table."""

import pytest
import scipy.stats

from scripts import ablation_table
from scripts.ablation_plan import Row, Run
from scripts.ablation_table import Effect, Finished, interval


def finished(variant, errors, *, extras=True, image_alone=None, **fields):
    """A finished run for each seed. errors: mean of bins with detected landmarks."""
    images = (32, 0) if variant == "plain" else (12, 20)
    return [
        Finished(
            Run(Row(variant, extras, **fields), seed, 900, 3.0),
            {
                "detected_landmarks": {"mean_of_bins": error},
                "empty_heatmap": {"mean_of_bins": error + 0.5 if image_alone is None else image_alone[seed]},
            },
            {},
            900,
            images,
            9e-3,
        )
        for seed, error in enumerate(errors)
    ]


def text(results, planned=None, tuned=(), beside=None):
    return ablation_table.text(
        results,
        list(tuned),
        beside or {},
        reference="full",
        reference_name="ss+sc",
        planned=len(results) if planned is None else planned,
        command="python -m x",
        note="A note.",
    )


def test_an_interval_is_that_of_students_t():
    # Three values 0.2 apart: standard deviation 0.2, standard error 0.2 / sqrt(3); t(0.975, 2) = 4.3027 in tables.
    found = interval([3.0, 3.2, 3.4])
    assert found.mean == pytest.approx(3.2) and found.count == 3
    assert found.high - found.mean == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert interval([]) is None and interval([3.0]).low is None


def test_a_difference_is_that_of_a_paired_t_test():
    first, second = [3.61, 3.55, 3.72, 3.58], [3.50, 3.49, 3.57, 3.51]
    found = ablation_table.paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    expected = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_only_seeds_that_both_rows_have_are_compared():
    found = ablation_table.paired_difference({0: 3.0, 1: 4.0, 2: 9.0}, {1: 3.0, 0: 2.5, 5: 1.0})
    assert found.count == 2 and found.mean == pytest.approx(0.75)
    assert ablation_table.paired_difference({0: 3.0}, {1: 3.0}) is None


@pytest.mark.parametrize(
    "differences, sentence",
    [
        ([-0.2, -0.21, -0.19], "L, image alone: helps, by 0.200 [0.175, 0.225]."),
        ([0.2, 0.21, 0.19], "L, image alone: harms, by 0.200 [0.175, 0.225]."),
        ([-0.2, 0.1, 0.1], "L, image alone: no difference shown (NME +0.000 [-0.430, +0.430])."),
        ([-0.2], "L, image alone: one seed: no interval (NME -0.200)."),
    ],
)
def test_verdicts_follow_from_the_interval(differences, sentence):
    found = Effect("L", "empty_heatmap", interval(differences)).sentence
    assert found.replace("-0.000", "+0.000") == sentence


def test_an_effect_compares_the_row_with_a_part_and_the_row_without_it():
    results = [*finished("full", [3.5, 3.6, 3.55]), *finished("no-cyc", [3.7, 3.82, 3.74])]
    results += finished("full", [4.5, 4.6, 4.55], extras=False)
    (cyc, extras) = (effect for effect in ablation_table.effects(results) if effect.protocol == "detected_landmarks")
    assert cyc.what == "L_cyc in ss+sc (with extras)" and cyc.verdict == "helps"
    assert cyc.difference.mean == pytest.approx(-(0.2 + 0.22 + 0.19) / 3)
    assert extras.what == "The extras in ss+sc (2DAL)" and extras.difference.mean == pytest.approx(-1.0)


def test_rows_are_compared_with_rows_of_the_same_number_of_wild_images():
    results = [
        *finished("full", [3.5]),
        *finished("full", [4.0], num_wild=100),
        *finished("3ddfa", [4.2], num_wild=100),
        *finished("3ddfa", [3.8]),
    ]
    summaries = ablation_table.row_summaries(results, "full")
    found = [summary["protocols"]["detected_landmarks"]["difference"] for summary in summaries]
    assert found[0] is None
    assert [difference.mean for difference in found[1:]] == pytest.approx([0.5, 0.2, 0.3])


def test_the_table_shows_means_intervals_differences_and_conditions():
    shown = text([*finished("plain", [4.0, 4.2, 4.4]), *finished("full", [3.5, 3.7, 3.9])])
    assert (
        "| base | 4.200 [3.703, 4.697] | +0.500 [+0.500, +0.500] | 4.700 [4.203, 5.197] | +0.500 [+0.500, +0.500]"
        " | 900 | 32 + 0 | 0.009 | 0, 1, 2 |"
    ) in shown
    assert "| ss+sc (2DAL) | 3.700 [3.203, 4.197] | - |" in shown
    assert "Not complete" not in shown and "Extras off" not in shown and "Table III" not in shown


def test_an_incomplete_table_is_marked():
    assert "**Not complete: 1 of 6 runs are finished.**" in text(finished("plain", [4.0]), planned=6)


def test_other_methods_and_tried_rates_follow_the_table():
    trials = [
        {"factor": f, "learning_rate": 3e-3 * f, "validation_error": e} for f, e in ((1.0, 4.1), (3.0, float("inf")))
    ]
    tuned = [{"row": Row("sc", False), "steps": 300, "chosen": 1.0, "trials": trials}]
    beside = {"authors": {"0-30": 2.0, "30-60": 3.0, "60-90": None, "mean_of_bins": 2.5, "count": 7}}
    shown = text(finished("full", [3.5]), tuned=tuned, beside=beside)
    assert "| sc | off | 300 | **0.003: 4.100**; 0.009: inf |" in shown
    assert "authors: 2.000 / 3.000 / -, mean of bins 2.500 (7 images)." in shown


def test_the_papers_tables_accompany_several_masks_and_numbers_of_wild_images():
    shown = text([*finished("full", [3.5], weights="4:2:1"), *finished("full", [3.6], weights="1:1:1", num_wild=100)])
    assert "| Stage 2 | 3.94 | 3.52 | 3.39 |" in shown and "| 2DAL | 3.83 | 3.64 | 3.52 | 3.39 |" in shown
    assert "| ss+sc (2DAL), weights 1:1:1, 100 wild images | 3.600 | +0.100 |" in shown
