"""Line charts as inline SVG, coloured by the style sheet of the page around them.

Drawn by hand, not by a plotting library, so that one figure serves light and dark pages, scales
with the window, needs no font file, and costs a few kilobytes. Text in a chart is escaped here.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from twodal_jax.io.text import as_html

MAX_POINTS = 400  # of one line; more cannot be told apart on a screen
NUM_COLORS = 6
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 14, 14, 40

# Okabe and Ito's colours, darkened or lightened to stand out on either background.
CSS = """
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font: 11px var(--sans); fill: var(--muted); font-variant-numeric: tabular-nums; }
.chart .axis { stroke: var(--ink); stroke-width: 1; opacity: .55; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .mark { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 3; }
.chart path { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.chart path.faint { stroke-width: 1; opacity: .3; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
.s3 { stroke: var(--s3); stroke-dasharray: 7 3; } .s4 { stroke: var(--s4); stroke-dasharray: 7 3; }
.s5 { stroke: var(--s5); stroke-dasharray: 7 3; }
.chart circle { stroke: none; }
circle.s0 { fill: var(--s0); } circle.s1 { fill: var(--s1); } circle.s2 { fill: var(--s2); }
circle.s3 { fill: var(--s3); } circle.s4 { fill: var(--s4); } circle.s5 { fill: var(--s5); }
"""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      name: shown in the legend, if there is one.
      x, y: [m], in the units of the axes; points where either is not finite break the line.
      color: index of the colour, taken modulo NUM_COLORS; from 3 on also dashed.
      faint: a thin background line, e.g. raw values behind their smoothed course.
      dots: mark every point, for few measured values.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    faint: bool = False
    dots: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """Maps values of one axis onto pixels. `low` and `high` in data units; log: base 10."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value):
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), np.log10(value)
        share = (np.asarray(value, np.float64) - low) / (high - low)
        return self.start + share * (self.end - self.start)


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 480,
    height: int = 280,
    log_y: bool = False,
    x_range=None,
    y_range=None,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """A chart as an <svg> element, to be shown at about `width` CSS pixels.

    Args:
      lines: what to draw, in this order.
      title: what the chart shows, read out by screen readers; not drawn.
      x_label, y_label: with the unit. log_y: base-10 axis; values <= 0 break the line.
      x_range, y_range: (low, high) in data units; by default what the data cover.
      marks: vertical lines at x with a label, e.g. where a training stage begins.

    Returns:
      SVG text. Without a single finite value: a sentence that says so.
    """
    cleaned = [(line, *_finite(line, log_y)) for line in lines]
    all_x, all_y = (np.concatenate([c[i] for c in cleaned] or [np.zeros(0)]) for i in (1, 2))
    all_x, all_y = all_x[np.isfinite(all_y)], all_y[np.isfinite(all_y)]
    if not len(all_y):
        return f'<p class="note">{as_html(title)}: nothing was recorded.</p>'
    low, high = _spread(x_range or (all_x.min(), all_x.max()), False)
    x = Axis(low, high, MARGIN_LEFT, width - MARGIN_RIGHT)
    low, high = _spread(y_range or (all_y.min(), all_y.max()), log_y, pad=y_range is None)
    y = Axis(low, high, height - MARGIN_BOTTOM, MARGIN_TOP, log_y)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{as_html(title)}">',
        *_frame(x, y, x_label, y_label, width, height),
        *_marks(x, marks, height),
        *(_line(line, x(xs), y(ys)) for line, xs, ys in cleaned),
        "</svg>",
    ]
    return "".join(parts)


def _finite(line: Line, log_y: bool):
    xs, ys = np.asarray(line.x, np.float64).ravel(), np.asarray(line.y, np.float64).ravel()
    if xs.shape != ys.shape:
        raise ValueError(f"Line {line.name!r} has {len(xs)} values of x and {len(ys)} of y.")
    xs, ys = xs[np.isfinite(xs)], ys[np.isfinite(xs)]
    usable = np.isfinite(ys) & ((ys > 0) | (not log_y))
    ys = np.where(usable, ys, np.nan)
    if len(xs) > MAX_POINTS:
        keep = np.unique(np.round(np.linspace(0, len(xs) - 1, MAX_POINTS)).astype(int))
        xs, ys = xs[keep], ys[keep]
    return xs, ys


def _spread(limits, log: bool, pad: bool = False):
    """A range of positive length, a little wider than the data when `pad`."""
    low, high = (float(v) for v in limits)
    if log:
        low, high = (low / 1.15, high * 1.15) if pad or low == high else (low, high)
        return low, high
    if low == high:
        return low - (abs(low) * 0.5 or 0.5), high + (abs(high) * 0.5 or 0.5)
    space = 0.05 * (high - low) if pad else 0.0
    floor = 0.0 if low >= 0 and low < 0.4 * high else low - space  # a true zero when it is near
    return (floor if pad else low), high + space


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 between them when they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(values) >= 3:
            break
    return values[:: math.ceil(len(values) / 6)] if values else [low]


def number(value: float) -> str:
    """A tick label: at most three or four digits, thousands as 10k."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value / 1e3:.4g}k"
    return f"{value:.0e}" if abs(value) < 1e-3 else f"{value:.4g}".replace("-", "−")


def _frame(x, y, x_label, y_label, width, height):
    bottom, right = height - MARGIN_BOTTOM, width - MARGIN_RIGHT
    for value in log_ticks(y.low, y.high) if y.log else ticks(y.low, y.high, height / 48):
        at = float(y(value))
        yield f'<line class="grid" x1="{MARGIN_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        place = f'x="{MARGIN_LEFT - 6}" y="{at + 3.8:.1f}" text-anchor="end"'
        yield f"<text {place}>{number(value)}</text>"
    yield f'<line class="axis" x1="{MARGIN_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    for value in ticks(x.low, x.high, width / 75):
        at = float(x(value))
        yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>'
    middle = (MARGIN_TOP + bottom) / 2
    yield (
        f'<text x="{(MARGIN_LEFT + right) / 2}" y="{height - 7}" text-anchor="middle">'
        f"{as_html(x_label)}</text>"
        f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">'
        f"{as_html(y_label)}</text>"
    )


def _marks(x, marks, height):
    for value, label in marks:
        if x.low < value < x.high:
            at = float(x(value))
            near_end = at > (x.start + x.end) / 2
            yield (
                f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{MARGIN_TOP - 4}" '
                f'y2="{height - MARGIN_BOTTOM}"/><text x="{at + (-4 if near_end else 4):.1f}" '
                f'y="{MARGIN_TOP + 4}" text-anchor="{"end" if near_end else "start"}">'
                f"{as_html(label)}</text>"
            )


def _line(line: Line, xs, ys) -> str:
    steps, pen_down = [], False
    for px, py in zip(xs, ys):
        if not math.isfinite(py):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = True
    css = f"s{line.color % NUM_COLORS}"
    path = f'<path class="{css}{" faint" if line.faint else ""}" d="{"".join(steps)}"/>'
    if line.dots:
        path += "".join(
            f'<circle class="{css}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>'
            for px, py in zip(xs, ys)
            if math.isfinite(py)
        )
    return path


def legend(entries: Sequence[tuple[int, str]]) -> str:
    """HTML legend of (colour index, text); the text is escaped."""
    items = "".join(
        f'<span><svg width="22" height="8" aria-hidden="true"><line class="s{color % NUM_COLORS}" '
        f'x1="1" x2="21" y1="4" y2="4" stroke-width="2.4"/></svg>{as_html(text)}</span>'
        for color, text in entries
    )
    return f'<div class="legend">{items}</div>'
