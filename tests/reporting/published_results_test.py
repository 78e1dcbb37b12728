"""twodal_jax.reporting.published_results and benchmark_output: rows stand beside what they are of, and it is said."""

import io
import json

import numpy as np
import pytest
import rich.console

from twodal_jax.evaluation import nme_evaluation
from twodal_jax.reporting import benchmark_output, nme_tables, published_results


def by_method(measure):
    return {row.method: row for row in published_results.rows_for(measure)}


def test_the_3d_column_is_the_one_whose_gains_the_text_gives_for_dense_points():
    dense = by_method("nme_3d_dense")
    gains = [dense[method].mean_of_bins - dense["2DAL"].mean_of_bins for method in ("DeFA", "3DDFA")]
    assert gains == pytest.approx([4.32, 1.92])  # Section IV-B
    assert not by_method("nme_3d_68") and "nme_3d_dense" in published_results.NOTES


def test_means_of_bins_are_those_of_their_bins():
    for row in published_results.TABLE_1:
        if None not in row.by_bin and row.mean_of_bins:
            assert sum(row.by_bin) / 3 == pytest.approx(row.mean_of_bins, abs=0.03), row


def test_lfpa_stands_in_the_column_that_is_measured():
    (row,) = (
        row for row in nme_tables.published_rows(published_results.rows_for("nme_lfpa")) if row[0].startswith("2DAL")
    )
    assert row[1]["mean_of_images"] == 2.88 and row[1]["mean_of_bins"] is None


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


def test_what_the_dense_rows_are_is_said_wherever_they_stand(tmp_path):
    found = results([0.0, 50.0])
    printed = rich.console.Console(file=io.StringIO(), width=1000)
    benchmark_output.print_tables(found, printed)
    benchmark_output.write(found, tmp_path)
    written = [(tmp_path / name).read_text() for name in ("tables.md", "metrics.json")]
    for text in (" ".join(printed.file.getvalue().split()), *written):
        assert "by the text of Section IV-B are dense points" in text
        assert "truth of 199 + 29 components" in text and "parameters, 40 + 10 components" in text


def test_what_networks_were_shown_and_notes_are_printed_and_written(tmp_path):
    found = results([0.0, 50.0])
    printed = rich.console.Console(file=io.StringIO(), width=1000)
    benchmark_output.print_tables(found, printed)
    benchmark_output.write(found, tmp_path)
    markdown = (tmp_path / "tables.md").read_text()
    assert "m: empty heatmaps" in printed.file.getvalue() and "mask 1 means visible" in printed.file.getvalue()
    assert "## What the networks were shown\n\n- m: empty heatmaps\n" in markdown
    assert "## Notes\n\n- mask 1 means visible\n" in markdown and "Not measured" not in markdown
    assert json.loads((tmp_path / "metrics.json").read_text())["shown"] == {"m": "empty heatmaps"}


@pytest.mark.parametrize("yaw_deg, drawn", [([np.nan, np.nan], False), ([np.nan, 10.0], True)])
def test_curves_by_yaw_are_drawn_where_a_yaw_is_known(tmp_path, yaw_deg, drawn):
    benchmark_output.write(results(yaw_deg), tmp_path)
    assert (tmp_path / "cumulative_by_yaw_nme_3d_dense.png").is_file() == drawn
    assert (tmp_path / "error_distribution_nme_3d_dense.png").is_file()
