"""The figures of the report: a heading, a legend and a chart each, as HTML."""

import dataclasses

import numpy as np

from twodal_jax.evaluation import metrics
from twodal_jax.io.text import as_html
from twodal_jax.reporting import charts


def nme_curves(histories, stage_starts) -> str:
    """NME over training steps: name → [(step, per cent), ...]; "" without any value."""
    curves = {name: list(history) for name, history in histories.items() if len(history)}
    if not curves:
        return ""
    lines = [
        charts.Line(name, *np.array(history, np.float64).T, color=index, dots=len(history) <= 60)
        for index, (name, history) in enumerate(curves.items())
    ]
    return _figure(
        "Validation error during training",
        enumerate(curves),
        lines,
        marks=stage_starts,
        x_label="training step",
        y_label="NME, %",
    )


def distribution(errors_of) -> str:
    """Cumulative error distributions: name → NME of every image [n], per cent; "" without values.

    The axis ends a little beyond what the best of them needs for 97 % of its images.
    """
    lines, entries, everything = [], [], []
    for index, (name, errors) in enumerate(errors_of.items()):
        errors = np.asarray(errors, np.float64)
        xs, share = metrics.cumulative_error(errors)
        if not len(xs):
            continue
        everything.append(xs)
        lines.append(charts.Line(name, [0.0, *xs], [0.0, *share], color=index))
        entries.append((index, f"{name} (mean {xs.mean():.2f} %)"))
    if not lines:
        return ""
    limit = float(np.clip(min(np.percentile(xs, 97) for xs in everything) * 1.6, 1.0, None))
    lines = [dataclasses.replace(line, **_cut(line, limit)) for line in lines]
    return _figure(
        "Cumulative error distribution",
        entries,
        lines,
        x_range=(0.0, limit),
        y_range=(0.0, 100.0),
        x_label="NME, %",
        y_label="images with at most this error, %",
    )


def _cut(line, limit):
    xs, ys = np.asarray(line.x), np.asarray(line.y)
    inside = xs <= limit
    return {"x": [*xs[inside], limit], "y": [*ys[inside], ys[inside][-1]]}


def _figure(title, entries, lines, **options):
    chart = charts.line_chart(lines, title=title, **options)
    return f"<figure><h3>{as_html(title)}</h3>{charts.legend(list(entries))}{chart}</figure>"


def losses(histories, units, stage_starts) -> str:
    """A chart a loss over training steps, recorded and smoothed: name → [(step, value), ...].

    units: name → unit, for those that have one. All charts have the same steps below each other.
    """
    histories = {name: history for name, history in histories.items() if len(history)}
    steps = [step for history in histories.values() for step, _ in history]
    x_range = (min(steps), max(steps)) if steps else None
    return "".join(
        _loss(name, units.get(name, ""), history, stage_starts, x_range) for name, history in histories.items()
    )


def _loss(name, unit, history, stage_starts, x_range):
    steps, values = np.array(history, np.float64).T
    smooth = _running_median(values, max(1, len(values) // 40))
    positive = values[np.isfinite(values)]
    wide = len(positive) > 0 and positive.min() > 0 and positive.max() > 25 * positive.min()
    chart = charts.line_chart(
        [charts.Line("recorded", steps, values, faint=True), charts.Line("median", steps, smooth)],
        title=f"Loss {name} over training steps",
        x_label="training step",
        y_label=unit,
        width=320,
        height=190,
        log_y=bool(wide),
        x_range=x_range,
        marks=stage_starts,
    )
    return f"<figure><h3>{as_html(name)}</h3>{chart}</figure>"


def _running_median(values, reach):
    if reach <= 1 or len(values) < 5:
        return values
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    windows = windows[np.isfinite(values)]
    smooth = np.full(len(values), np.nan)
    windows = np.where(np.isfinite(windows), windows, np.nan)
    smooth[np.isfinite(values)] = np.nanmedian(windows, axis=1)
    return smooth
