"""Published results and benchmark output: each published row stands beside what it measures, with its conditions."""

import io
import json

import numpy as np
import pytest
import rich.console

from twodal_jax.evaluation import nme_evaluation
from twodal_jax.reporting import benchmark_output, nme_tables, published_results


def test_the_dense_rows_have_the_gains_that_the_papers_text_names_for_dense_points():
    dense = {row.method: row.mean_of_bins for row in published_results.rows_for("nme_3d_dense")}
    gains = [dense[method] - dense["2DAL"] for method in ("DeFA", "3DDFA")]
    assert gains == pytest.approx([4.32, 1.92])  # Section IV-B
    assert not published_results.rows_for("nme_3d_68") and "nme_3d_dense" in published_results.NOTES


def test_means_of_bins_are_the_means_of_their_bins():
    for row in published_results.TABLE_1:
        if None not in row.by_bin and row.mean_of_bins:
            assert sum(row.by_bin) / 3 == pytest.approx(row.mean_of_bins, abs=0.03), row


def test_rows_of_aflw_lfpa_have_a_mean_of_images_and_no_bins():
    rows = dict(nme_tables.published_rows(published_results.rows_for("nme_lfpa")))
    row = rows[f"2DAL {nme_tables.PUBLISHED_MARK}"]
    assert row["mean_of_images"] == 2.88 and row["mean_of_bins"] is None


def results(yaw_deg, measure="nme_3d_dense"):
    truth = nme_evaluation.GroundTruth("t", ["a", "b"], *[np.zeros((2, 1))] * 2, np.zeros(2), *[np.zeros((2, 4))] * 2)
    return benchmark_output.Results(
        name="Faces",
        keys=["a", "b"],
        yaw_deg=np.float64(yaw_deg),
        errors={"m": {measure: np.array([1.0, 2.0])}},
        titles=nme_evaluation.TITLES,
        about=benchmark_output.about_measures(truth),
        published={measure: published_results.rows_for(measure)},
        problems=["mask 1 means visible"],
        shown={"m": "empty heatmaps"},
    )


def test_conditions_network_inputs_and_notes_are_printed_and_written(tmp_path):
    console = rich.console.Console(file=io.StringIO(), width=1000)
    benchmark_output.print_tables(results([0.0, 50.0]), console)
    benchmark_output.write(results([0.0, 50.0]), tmp_path)
    printed = " ".join(console.file.getvalue().split())
    markdown, metrics_json = ((tmp_path / name).read_text() for name in ("tables.md", "metrics.json"))
    for text in (printed, markdown, metrics_json):
        assert "by the text of Section IV-B are dense points" in text
        assert "truth of 199 + 29 components" in text and "parameters, 40 + 10 components" in text
    assert "m: empty heatmaps" in printed and "mask 1 means visible" in printed
    assert "## Input of the networks\n\n- m: empty heatmaps\n" in markdown
    assert "## Notes\n\n- mask 1 means visible\n" in markdown
    assert json.loads(metrics_json)["shown"] == {"m": "empty heatmaps"}


@pytest.mark.parametrize("yaw_deg, drawn", [([np.nan, np.nan], False), ([np.nan, 10.0], True)])
def test_curves_by_yaw_are_drawn_only_where_a_yaw_is_known(tmp_path, yaw_deg, drawn):
    benchmark_output.write(results(yaw_deg), tmp_path)
    assert (tmp_path / "cumulative_by_yaw_nme_3d_dense.png").is_file() == drawn
    assert (tmp_path / "error_distribution_nme_3d_dense.png").is_file()
