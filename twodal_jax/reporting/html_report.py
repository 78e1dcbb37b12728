"""The report of a training run: one HTML page that is readable without a network.

The page is `templates/report.html`, filled in by Jinja2. It contains its style sheet, its charts (SVG) and its pictures
(base64), has no script and refers to nothing outside itself. Every text is escaped, whether it comes from a file, a
command line or a data set.
"""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
import markupsafe
import numpy as np

from twodal_jax.io.text import escape_hidden, write_text
from twodal_jax.rendering import drawing
from twodal_jax.reporting import nme_tables, paper_figures
from twodal_jax.reporting.paper_figures import History

COLUMNS = {key: label.replace("-", "–") for key, label in nme_tables.COLUMNS.items() if key != "count"}


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the accuracy table.

    Attributes:
      protocol: what the network gets besides the image, e.g. "Detected landmarks" or "Empty heatmap"; the table groups
        rows by protocol.
      stage: of the weights, e.g. "before training", "after stage 1", "after stage 2".
      summary: of `metrics.summarize`, per cent; a missing key is shown as a dash.
    """

    protocol: str
    stage: str
    summary: Mapping[str, float | int | None]


@dataclasses.dataclass(frozen=True)
class Example:
    """One face of the gallery.

    Attributes:
      name: of the image. nme: per cent. yaw_deg: degrees, NaN if unknown.
      pictures: {caption: BGR uint8 picture} in the order of display (`overlay.example_pictures`).
      rank: e.g. "best", "median", "worst"; may be empty.
    """

    name: str
    nme: float
    yaw_deg: float
    pictures: Mapping[str, np.ndarray]
    rank: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Content of the page; it has no section for empty fields.

    Attributes:
      title: heading of the page.
      lede: one or two sentences below it.
      headlines: {label: text}, the few numbers in large type, e.g. {"NME, mean of bins": "4.1 %"}.
      summary: {label: text or number}: config, face model, parameters, steps, time, images/s ...
      losses: {loss: [(step, value), ...]}, one chart each; values that are not finite leave gaps.
      loss_units: {loss: unit}, e.g. {"l_2d_con": "crop pixels"}; the others have none.
      nme_curves: {name: [(step, NME in per cent), ...]} of the test set and of the validation part.
      stage_starts: [(step, label), ...], drawn as vertical lines, e.g. [(4000, "stage 2")].
      results: rows of the accuracy table, in order.
      error_distributions: {name: NME of every image [n]}, per cent; NaN counts as failed.
      examples: the gallery, best first.
      num_images_by_bin: {"0-30": images, ...} for the head of the table; may be empty.
      measure: a sentence that defines the NME of the page.
      notes: e.g. skipped inputs, updates that were not finite.
    """

    title: str
    lede: str = ""
    headlines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    summary: Mapping[str, object] = dataclasses.field(default_factory=dict)
    losses: Mapping[str, History] = dataclasses.field(default_factory=dict)
    loss_units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    nme_curves: Mapping[str, History] = dataclasses.field(default_factory=dict)
    stage_starts: Sequence[tuple[float, str]] = ()
    results: Sequence[Result] = ()
    error_distributions: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    examples: Sequence[Example] = ()
    num_images_by_bin: Mapping[str, int] = dataclasses.field(default_factory=dict)
    measure: str = (
        "Normalised mean error (NME) of the 68 landmarks in 2D: mean distance to the true ones, in "
        "per cent of the square root of the area of the box around the true ones."
    )
    notes: Sequence[str] = ()


def write_report(path: str | os.PathLike, report: ReportData) -> pathlib.Path:
    """Writes the page atomically and returns its path; the folder must exist."""
    path = pathlib.Path(path)
    write_text(path, render(report))
    return path


def render(report: ReportData) -> str:
    """The page as text. Raises ValueError if a picture is not BGR uint8 [H, W, 3]."""
    histories = {name: history for name, history in report.losses.items() if len(history)}
    steps = [step for history in histories.values() for step, _ in history]
    nme_charts = {
        "Validation error during training": paper_figures.nme_curves(report.nme_curves, report.stage_starts),
        "Cumulative error distribution": paper_figures.cumulative_distribution(report.error_distributions),
    }
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            columns=COLUMNS,
            table=_table(report.results),
            num_excluded=max((int(r.summary.get("excluded") or 0) for r in report.results), default=0),
            nme_charts={title: _svg(figure, title) for title, figure in nme_charts.items() if figure is not None},
            loss_charts={
                name: _svg(
                    # All charts have the same step axis.
                    paper_figures.loss_curve(
                        history, report.loss_units.get(name, ""), report.stage_starts, (min(steps), max(steps))
                    ),
                    f"Loss {name} over training steps",
                )
                for name, history in histories.items()
            },
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("twodal_jax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, markupsafe.Markup) else escape_hidden(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": _number,
        "yaw": lambda degrees: f"yaw {degrees:+.0f}°".replace("-", "−") if math.isfinite(degrees) else "",
        "jpeg": lambda picture: markupsafe.Markup(drawing.encode_jpeg(picture)),
    }
    return environment


def _svg(figure, label: str) -> str:
    return "" if figure is None else markupsafe.Markup(paper_figures.inline_svg(figure, label))


def _table(results: Sequence[Result]) -> dict[str, list[tuple]]:
    """{protocol: [(stage, [(NME or None, whether it is the best of the protocol)], number of images or None)]}."""
    table = {}
    for protocol in dict.fromkeys(result.protocol for result in results):
        rows = [result for result in results if result.protocol == protocol]
        values = [[_finite_or_none(row.summary.get(key)) for key in COLUMNS] for row in rows]
        best = [min((v for v in column if v is not None), default=None) for column in zip(*values)]
        table[protocol] = [
            (
                row.stage,
                [(v, v is not None and v == b and len(rows) > 1) for v, b in zip(cells, best)],
                row.summary.get("count"),
            )
            for row, cells in zip(rows, values)
        ]
    return table


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: object) -> str:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{int(value):,}"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
