"""The report of a training run: one HTML page with everything in it, readable without a network.

The page has no script and refers to nothing outside itself: the style sheet and the charts (SVG)
are inline, the pictures base64. All text is escaped, whatever file or command line it came from.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from twodal_jax.io.text import as_html, write_text
from twodal_jax.rendering import drawing
from twodal_jax.reporting import report_figures, report_style

History = Sequence[tuple[float, float]]
COLUMNS = {
    "0-30": "0–30°",
    "30-60": "30–60°",
    "60-90": "60–90°",
    "mean_of_bins": "mean of bins",
    "mean_of_images": "mean of images",
    "mean_without_20_worst": "without 20 worst",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the accuracy table.

    Attributes:
      protocol: what the network was given, e.g. "Detected landmarks" or "Empty heatmap"; rows of
        one protocol stand together.
      stage: which weights, e.g. "before training", "after stage 1", "after stage 2".
      summary: as `metrics.summarize` returns it, per cent; missing keys are shown as a dash.
    """

    protocol: str
    stage: str
    summary: Mapping[str, float | int | None]


@dataclasses.dataclass(frozen=True)
class Example:
    """One face of the gallery.

    Attributes:
      name: of the image. nme: per cent. yaw_deg: degrees, NaN if unknown.
      pictures: caption → BGR uint8 picture, in the order shown (`overlay.example_pictures`).
      rank: where it stands, e.g. "best", "median", "worst"; may be empty.
    """

    name: str
    nme: float
    yaw_deg: float
    pictures: Mapping[str, np.ndarray]
    rank: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything the page shows; parts that are left empty are left out of it.

    Attributes:
      title: heading of the page.
      lede: a sentence or two below it.
      headlines: label → short text, the few numbers set large, e.g. {"NME, mean of bins": "4.1 %"}.
      summary: label → text or number: config, face model, parameters, steps, time, images/s ...
      losses: loss name → [(step, value), ...], one chart each; non-finite values leave gaps.
      loss_units: loss name → unit, e.g. {"l_2d_con": "crop pixels"}; others have none.
      nme_curves: name → [(step, NME in per cent), ...] of the test set and of the validation part.
      stage_starts: [(step, label), ...], drawn as vertical lines, e.g. [(4000, "stage 2")].
      results: rows of the accuracy table, in order.
      error_distributions: name → NME of every image [n], per cent; NaN counts as failed.
      examples: the gallery, best first.
      num_images_by_bin: "0-30" … → images, for the head of the table; may be empty.
      measure: one sentence saying which NME the page is about.
      notes: what a reader must know, e.g. skipped inputs, updates that were not finite.
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
    """The page as text."""
    sections = (_accuracy(report), _gallery(report), _training(report), _run(report))
    title = as_html(report.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title>'
        f"<style>{report_style.CSS}</style></head>\n<body><main>{_header(report)}"
        + "\n".join(section for section in sections if section)
        + "</main></body></html>\n"
    )


def _header(report):
    lede = f'<p class="lede">{as_html(report.lede)}</p>' if report.lede else ""
    headlines = "".join(
        f'<div class="headline"><b>{as_html(value)}</b><span>{as_html(label)}</span></div>'
        for label, value in report.headlines.items()
    )
    return (
        '<header><p class="kicker">2DAL · 3D face reconstruction</p>'
        f"<h1>{as_html(report.title)}</h1>{lede}"
        + (f'<div class="headlines">{headlines}</div>' if headlines else "")
        + "</header>\n"
    )


def _section(title, *parts):
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{title}</h2>\n{body}</section>" if body else ""


def _accuracy(report):
    figures = report_figures.nme_curves(report.nme_curves, report.stage_starts)
    figures += report_figures.distribution(report.error_distributions)
    if not report.results and not figures:
        return ""
    return _section(
        "Accuracy",
        f'<p class="note">{as_html(report.measure)} Lower is better.</p>',
        _results_table(report) if report.results else "",
        f'<div class="pair">{figures}</div>' if figures else "",
    )


def _results_table(report):
    counts = report.num_images_by_bin
    head = "".join(
        f"<th scope=col>{label}" + (f"<br>n = {counts[key]:,}" if key in counts else "") + "</th>"
        for key, label in COLUMNS.items()
    )
    protocols = list(dict.fromkeys(result.protocol for result in report.results))
    bodies = "".join(
        _protocol_rows(protocol, [r for r in report.results if r.protocol == protocol]) for protocol in protocols
    )
    excluded = max(int(r.summary.get("excluded") or 0) for r in report.results)
    note = f'<p class="note">Up to {excluded} images could not be measured and enter no mean.</p>'
    return (
        f"<div class=scroll><table><thead><tr><th scope=col>NME, %</th>{head}"
        f"<th scope=col>images</th></tr></thead>{bodies}</table></div>" + (note if excluded else "")
    )


def _protocol_rows(protocol, results):
    rows = []
    for result in results:
        cells = "".join(_cell(key, result, results) for key in COLUMNS)
        count = result.summary.get("count")
        rows.append(
            f"<tr><th scope=row>{as_html(result.stage)}</th>{cells}"
            f"<td>{'–' if count is None else f'{int(count):,}'}</td></tr>"
        )
    group = f"<tr class=group><th colspan={len(COLUMNS) + 2}>{as_html(protocol)}</th></tr>"
    return f"<tbody>{group}{''.join(rows)}</tbody>"


def _cell(key, result, results):
    value = result.summary.get(key)
    if value is None or not math.isfinite(value):
        return "<td>–</td>"
    shown = [r.summary.get(key) for r in results]
    best = min(v for v in shown if v is not None and math.isfinite(v))
    return f"<td{' class=best' if value == best and len(results) > 1 else ''}>{value:.2f}</td>"


def _training(report):
    figures = report_figures.losses(report.losses, report.loss_units, report.stage_starts)
    if not figures:
        return ""
    note = (
        "One chart a term, unweighted unless its name says otherwise: recorded values, faint, and "
        "their running median. Axes that span a wide range are logarithmic."
    )
    return _section("Losses", f'<p class="note">{note}</p>', f'<div class="small">{figures}</div>')


def _gallery(report):
    if not report.examples:
        return ""
    key = (
        '<div class="legend"><span><i class="swatch" style="background:var(--true)"></i>'
        "true landmarks</span>"
        '<span><i class="swatch" style="background:var(--predicted)"></i>predicted landmarks'
        "</span></div>"
    )
    faces = "".join(_face(example) for example in report.examples)
    return _section("Faces, from best to worst", key, f"<div>{faces}</div>")


def _face(example):
    pictures = "".join(
        f'<figure><img alt="{as_html(label)}" width="{picture.shape[1]}" '
        f'height="{picture.shape[0]}" src="data:image/jpeg;base64,{drawing.encode_jpeg(picture)}">'
        f"<figcaption>{as_html(label)}</figcaption></figure>"
        for label, picture in example.pictures.items()
    )
    yaw = f"yaw {example.yaw_deg:+.0f}°".replace("-", "−") if math.isfinite(example.yaw_deg) else ""
    rank = f"<em>{as_html(example.rank)}</em>" if example.rank else ""
    return (
        f'<div class="face"><div class="who">{rank}<b>{example.nme:.2f} %</b>{yaw}<br>'
        f'{as_html(example.name)}</div><div class="pictures">{pictures}</div></div>'
    )


def _run(report):
    rows = "".join(
        f"<dt>{as_html(label)}</dt><dd>{as_html(_shown(value))}</dd>" for label, value in report.summary.items()
    )
    notes = "".join(f"<li>{as_html(note)}</li>" for note in report.notes)
    return _section("The run", f"<dl>{rows}</dl>" if rows else "", f"<ul>{notes}</ul>" if notes else "")


def _shown(value):
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{int(value):,}"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
