"""The report page: complete, self-contained, escaped, and shown by a real browser; its charts."""

import dataclasses
import math
import re
import shutil
import subprocess
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from helpers_report import example_report, Page

from twodal_jax.evaluation import metrics
from twodal_jax.reporting import html_report, paper_figures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x.png onerror=alert(1)>{{ 7*7 }} $\\frac{$.jpg"


def test_the_page_contains_every_part():
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
        "before training (mean",
    ):
        assert part in page.text, part
    assert page.tags.count("img") == 6 and page.tags.count("svg") == 4


def test_the_page_refers_to_nothing_outside_itself():
    text = html_report.render(example_report())
    assert not re.search(r"https?://|@import|url\((?!#)|file:", text)
    assert text == html_report.render(example_report())
    page = Page(text)
    assert page.tags.count("style") == 1 and "script" not in page.tags
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("data:", "#m")), (tag, name)


def test_hostile_text_is_escaped_everywhere():
    face = example_report().examples[0]
    history = {HOSTILE: [(0, 1.0), (1, 2.0)]}
    hostile = example_report(
        title=HOSTILE,
        lede=HOSTILE,
        headlines={HOSTILE: HOSTILE},
        summary={HOSTILE: HOSTILE},
        losses=history,
        loss_units={HOSTILE: HOSTILE},
        measure=HOSTILE,
        nme_curves=history,
        stage_starts=[(0.5, HOSTILE)],
        notes=[HOSTILE],
        results=[html_report.Result(HOSTILE, HOSTILE, metrics.summarize([1.0], [0.0]))],
        error_distributions={HOSTILE: [1.0, 2.0]},
        examples=[dataclasses.replace(face, name=HOSTILE, rank=HOSTILE, pictures={HOSTILE: face.pictures["input"]})],
    )
    page = Page(html_report.render(hostile))
    assert page.text.count(HOSTILE) >= 19
    assert "script" not in page.tags and page.tags.count("img") == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_the_table_has_two_decimals_and_dashes_and_marks_the_best_row_of_each_protocol():
    text = html_report.render(example_report())
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', text, re.DOTALL)
    assert [row.count('class="best"') for row in rows] == [0, 6, 0]
    assert rows[2].count("<td>–</td>") == 3 and "<td>4.50</td>" in rows[2]


def test_an_empty_report_is_a_page_without_sections():
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
    page = Page(html_report.render(data))
    assert not any(re.search(r"\b(nan|inf)\b", value or "") for _, _, value in page.attributes)
    assert ("Nothing was recorded." in page.text) == (not math.isfinite(value))


def test_writing_replaces_the_page_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = dataclasses.replace(example_report().examples[0], pictures={"input": np.zeros((4, 4, 3))})
    with pytest.raises(ValueError, match="BGR uint8"):
        html_report.write_report(path, example_report(examples=[broken]))
    assert path.read_text() == "old"
    assert html_report.write_report(path, example_report()) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def lines_of(figure):
    """Points [M, 2] of each subpath of the curves of a chart, viewBox units; curves are cut off at the axes."""
    root = ElementTree.fromstring(paper_figures.inline_svg(figure, "label"))
    curves = [p.get("d") for p in root.iter("path") if p.get("clip-path") and "var(--s0)" in p.get("style")]
    return [np.array(re.findall(r"[-\d.]+", part), float).reshape(-1, 2) for d in curves for part in d.split("M")[1:]]


def test_a_gap_in_the_values_is_a_gap_in_the_line():
    history = list(enumerate([1.0, 2.0, math.nan, 2.0, 1.0]))
    assert [len(line) for line in lines_of(paper_figures.nme_curves({"a": history}))] == [2, 2]


def test_long_histories_are_thinned_but_keep_their_ends():
    steps = np.arange(50_000)
    values = 1 + np.random.default_rng(0).random(50_000)
    long, ends = ([(s, values[s]) for s in chosen] for chosen in (steps, steps[[0, -1]]))
    (line,), (reference,) = (lines_of(paper_figures.nme_curves({"a": history})) for history in (long, ends))
    assert 100 < len(line) <= paper_figures.MAX_POINTS
    np.testing.assert_allclose(line[[0, -1], 0], reference[[0, -1], 0], atol=0.01)


def test_saved_figures_are_the_same_byte_for_byte_and_show_names_literally(tmp_path):
    for name in ("a", "b"):
        figure = paper_figures.error_distribution({HOSTILE: np.linspace(1, 9, 60)}, "title")
        paper_figures.save(figure, tmp_path / name)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert "script" not in {node.tag.rpartition("}")[2] for node in ElementTree.parse(tmp_path / "a.svg").iter()}
    assert len(list(tmp_path.iterdir())) == 4


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
    assert inked[:2400].mean() > 0.4, "text, charts and pictures down the page, not an empty sheet"
    assert np.abs(picture[:, -8:].astype(int) - paper).max() < 30, "content runs off to the right"
