"""Properties of the report page: self-contained, escaped, complete, shown by a real browser."""

import dataclasses
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
from helpers_report import example_report, Page

from twodal_jax.evaluation import metrics
from twodal_jax.reporting import charts, html_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x.png onerror=alert(1)>.jpg"


def test_the_page_is_whole_and_holds_every_part():
    page = Page(html_report.render(example_report()))
    for part in (
        "Accuracy",
        "Losses",
        "Faces, from best to worst",
        "The run",
        "A run of the test",
        "2,812,345",
        "213.7",
        "image2.jpg",
        "One update was skipped.",
        "stage 2",
        "l_3d",
        "crop pixels²",
        "yaw −40°",
        "median",
    ):
        assert part in page.text, part
    assert page.tags.count("img") == 6 and page.tags.count("svg") >= 4
    assert "script" not in page.tags


def test_the_page_refers_to_nothing_outside_itself():
    text = html_report.render(example_report())
    assert not re.search(r"https?://|@import|url\(|file:", text)
    for tag, name, value in Page(text).attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith("data:"), (tag, name)


def test_hostile_text_anywhere_stays_text():
    face = example_report().examples[0]
    hostile = example_report(
        title=HOSTILE,
        lede=HOSTILE,
        headlines={HOSTILE: HOSTILE},
        summary={HOSTILE: HOSTILE},
        losses={HOSTILE: [(0, 1.0), (1, 2.0)]},
        loss_units={HOSTILE: HOSTILE},
        measure=HOSTILE,
        nme_curves={HOSTILE: [(0, 1.0), (1, 2.0)]},
        stage_starts=[(0.5, HOSTILE)],
        notes=[HOSTILE],
        results=[html_report.Result(HOSTILE, HOSTILE, metrics.summarize([1.0], [0.0]))],
        error_distributions={HOSTILE: [1.0, 2.0]},
        examples=[dataclasses.replace(face, name=HOSTILE, rank=HOSTILE, pictures={HOSTILE: face.pictures["input"]})],
    )
    page = Page(html_report.render(hostile))
    assert page.text.count("<script>alert('x')</script>") >= 12
    assert "script" not in page.tags and page.tags.count("img") == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_the_table_shows_two_decimals_dashes_for_empty_bins_and_marks_the_best_of_each_protocol():
    text = html_report.render(example_report())
    rows = re.findall(r"<tr><th scope=row>(.*?)</tr>", text)
    assert [row.count("class=best") for row in rows] == [0, 6, 0]
    assert rows[2].count("<td>–</td>") == 3 and "<td>4.50</td>" in rows[2]


def test_a_report_with_nothing_in_it_is_still_a_page():
    page = Page(html_report.render(html_report.ReportData(title="Empty")))
    assert "Empty" in page.text and "section" not in page.tags


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -3.0, 1e-12, 1e30])
def test_no_recorded_value_breaks_the_page(value):
    history = [(0, value), (10, 1.0), (20, value)]
    data = example_report(
        losses={"a": history, "b": [(5, value)]},
        nme_curves={"c": history},
        error_distributions={"d": [value], "e": [value, 1.0]},
    )
    text = html_report.render(data)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_writing_replaces_the_page_and_leaves_nothing_else_behind(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert html_report.write_report(path, example_report()) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_made_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = dataclasses.replace(example_report().examples[0], pictures={"input": np.zeros((4, 4))})
    with pytest.raises(ValueError, match="BGR uint8"):
        html_report.write_report(path, example_report(examples=[broken]))
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_chart_is_valid_xml_and_its_points_are_where_the_axes_say():
    svg = charts.line_chart(
        [charts.Line("a", [0, 10], [0.0, 5.0])],
        title="t",
        x_label="x, s",
        y_label="y, m",
        x_range=(0, 10),
        y_range=(0, 10),
        width=400,
        height=300,
    )
    root = ElementTree.fromstring(svg)
    path = root.find("path").get("d")
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]]
    bottom, top = 300 - charts.MARGIN_BOTTOM, charts.MARGIN_TOP
    assert points[0] == (charts.MARGIN_LEFT, bottom)
    assert points[1] == (400 - charts.MARGIN_RIGHT, (bottom + top) / 2)
    assert {"x, s", "y, m"} <= {text.text for text in root.iter("text")}


def test_a_gap_in_the_values_is_a_gap_in_the_line():
    svg = charts.line_chart([charts.Line("a", range(5), [1, 2, math.nan, 2, 1])], title="t", x_label="", y_label="")
    assert ElementTree.fromstring(svg).find("path").get("d").count("M") == 2


def test_long_histories_are_thinned_but_keep_their_ends():
    line = charts.Line("a", np.arange(50_000), np.linspace(1, 2, 50_000))
    xs, ys = charts._finite(line, log_y=False)
    assert len(xs) <= charts.MAX_POINTS and (xs[0], xs[-1], ys[-1]) == (0, 49_999, 2.0)


@pytest.mark.parametrize("low, high", [(0, 1), (-3, 7), (0, 9e3), (2.1, 2.2), (1e-7, 3e-7)])
def test_ticks_are_round_evenly_spaced_and_inside(low, high):
    values = charts.ticks(low, high)
    assert 3 <= len(values) <= 9
    slack = 1e-9 * (high - low)
    assert low - slack <= values[0] and values[-1] <= high + slack
    np.testing.assert_allclose(np.diff(values), values[1] - values[0])


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("options", [(), ("--force-dark-mode",)], ids=["light", "dark"])
def test_a_browser_shows_the_page(tmp_path, options):
    page = html_report.write_report(tmp_path / "report.html", example_report())
    shot = tmp_path / "shot.png"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--hide-scrollbars",
        "--window-size=1100,2600",
        *options,
        f"--screenshot={shot}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    picture = cv2.imread(str(shot))
    assert picture.shape == (2600, 1100, 3)
    paper = picture[5, 5].astype(int)
    assert (paper.mean() < 60) == bool(options)
    inked = (np.abs(picture.astype(int) - paper).sum(-1) > 60).any(axis=1)
    assert inked[:2400].mean() > 0.4  # text, charts and pictures down the page, not an empty sheet
    assert (np.abs(picture[:, -8:].astype(int) - paper).max()) < 30  # nothing runs off to the right
