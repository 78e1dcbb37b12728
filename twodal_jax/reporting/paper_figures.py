"""Figures of the evaluations and charts of the training report, drawn with matplotlib without a display.

A figure is saved as PNG and SVG (`save`) or embedded in an HTML page (`inline_svg`). The same figure gives the same
SVG, byte for byte. All text of a figure is shown literally: dollar signs start no formula, and control characters
are escaped. Colours: Okabe and Ito's palette, which most colour-blind people can distinguish.
"""

import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np

from twodal_jax.evaluation import metrics
from twodal_jax.io.text import escape_hidden

History = Sequence[tuple[float, float]]  # (step, value)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":")
SIZE_INCHES = (5.6, 4.0)
MAX_POINTS = 400  # of a line in the report: a screen shows no more
_GRID, _MARK = "#e6e6e6", "#7f7f7f"
# Colours of a chart in an HTML page, so that its style sheet can have a light and a dark theme.
_CSS_COLORS = {
    **{color: f"var(--s{index})" for index, color in enumerate(COLORS[:-1])},
    COLORS[-1]: "var(--ink)",
    _GRID: "var(--rule)",
    _MARK: "var(--muted)",
}
_SVG_SETTINGS = {"svg.hashsalt": "twodal_jax"}  # otherwise the ids in the file are random
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def _new_figure(x_label: str, y_label: str, title: str = "", size=SIZE_INCHES):
    from matplotlib.figure import Figure  # here because it is slow to import; unlike pyplot it needs no display

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(color=_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(index: int) -> dict:
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}


def _make_text_literal(figure) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text("\n".join(map(escape_hidden, text.get_text().split("\n"))))


def save(figure, path: pathlib.Path) -> list[pathlib.Path]:
    """Writes path.png and path.svg, each atomically, and returns their paths."""
    import matplotlib

    _make_text_literal(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, options in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
        temporary = path.with_name(f".{path.name}.tmp{suffix}")
        with matplotlib.rc_context(_SVG_SETTINGS):
            figure.savefig(temporary, **options)
        written.append(path.with_name(path.name + suffix))
        os.replace(temporary, written[-1])
    return written


def inline_svg(figure, label: str) -> str:
    """`<svg>` element for an HTML page; `label` is what screen readers read out.

    It has no fixed size, no style sheet and no reference outside itself. Its colours are the variables --s0 to --s5,
    --ink, --muted and --rule of the page's style sheet.
    """
    import matplotlib

    _make_text_literal(figure)
    file = io.BytesIO()
    with matplotlib.rc_context(_SVG_SETTINGS | {"svg.fonttype": "none"}):  # text stays text
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    root = ElementTree.fromstring(file.getvalue())
    for child in list(root):
        # matplotlib's style sheet has rules for `*`: here they would apply to the whole page.
        if any(node.tag.endswith("}style") for node in child) or child.tag.endswith("}metadata"):
            root.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]  # an HTML parser knows the namespaces
        attributes = {name.rpartition("}")[2]: value for name, value in node.attrib.items()}
        if node.tag == "g":
            attributes.pop("id", None)  # numbered anew in each figure, so not unique in a page
        for color, variable in _CSS_COLORS.items():
            if "style" in attributes:
                attributes["style"] = attributes["style"].replace(color, variable)
        node.attrib.clear()
        node.attrib.update(attributes)
    box = root.get("viewBox")
    root.attrib.clear()
    root.attrib.update({"class": "chart", "viewBox": box, "role": "img", "aria-label": escape_hidden(label)})
    return ElementTree.tostring(root, encoding="unicode")


def error_distribution(errors_of: Mapping[str, np.ndarray], title: str):
    """Fig. 6: number of images over NME in ascending order, without the 20 worst images of each method.

    The legend has the mean NME of the remaining images. errors_of: {method: [n] per cent, NaN where not measured}.
    """
    figure, axes = _new_figure("NME (%)", "number of images", title)
    for index, (label, errors) in enumerate(errors_of.items()):
        kept = np.sort(errors[np.isfinite(errors)])
        kept = kept[: max(len(kept) - metrics.NUM_WORST_DROPPED, 0)]
        mean = f"{kept.mean():.3f}" if len(kept) else "-"
        axes.plot(kept, np.arange(1, len(kept) + 1), label=f"{label}: {mean} %", **_style(index))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(title=f"mean without {metrics.NUM_WORST_DROPPED} worst", loc="lower right", frameon=False)
    return figure


def _plot_cumulative(axes, errors: np.ndarray, limit: float, label: str, index: int) -> None:
    """Draws the share of images, per cent, with at most a given NME; the curve goes on to `limit`."""
    x, share = metrics.cumulative_error(errors)
    x, share = np.append(0.0, x), np.append(0.0, share)
    x, share = np.append(x, max(limit, x[-1])), np.append(share, share[-1])
    axes.step(x, share, where="post", label=label, **_style(index))
    axes.set(xlim=(0, limit), ylim=(0, 100))


def cumulative_by_yaw(errors_of: Mapping[str, np.ndarray], yaw_deg: np.ndarray, title: str, limit: float | None = None):
    """Fig. 7b: share of images with at most a given NME, one panel for all images and one for each yaw bin.

    errors_of: as for `error_distribution`. yaw_deg: [n]. limit: right end of the NME axis; None for the NME that 95 %
    of the images of the worst method reach.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.2), layout="constrained")
    figure.suptitle(title)
    bins = metrics.yaw_bin_index(yaw_deg)
    panels = [("all", np.ones(len(yaw_deg), bool))]
    panels += [(f"{name}°", bins == index) for index, name in enumerate(metrics.YAW_BINS)]
    finite = [e[np.isfinite(e)] for e in errors_of.values() if np.isfinite(e).any()]
    limit = limit or max((np.quantile(e, 0.95) for e in finite), default=1.0)
    for place, (name, chosen) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        axes.grid(color=_GRID)
        for index, (label, errors) in enumerate(errors_of.items()):
            _plot_cumulative(axes, errors[chosen], limit, label, index)
        axes.set(title=f"{name} ({int(chosen.sum())} images)", xlabel="NME (%)", xlim=(0, limit), ylim=(0, 100))
        if place == 0:
            axes.set_ylabel("images (%)")
            axes.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def overlays(examples: Sequence[Mapping], title: str, columns: int = 4):
    """Fig. 5: predicted landmarks in green, true ones in red, the dense mesh as a thumbnail.

    examples: from best to worst, each {"title", "image": BGR uint8 [H, W, 3], "predicted", "true": [68, 2] pixels of
    the image, "mesh": BGR picture or None}.
    """
    from matplotlib.figure import Figure

    rows = -(-len(examples) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.85 * rows + 0.4), layout="constrained")
    figure.suptitle(f"{title}\ngreen: predicted, red: ground truth")
    for place, example in enumerate(examples):
        axes = figure.add_subplot(rows, columns, place + 1)
        height, width = example["image"].shape[:2]
        axes.imshow(example["image"][..., ::-1])
        for name, color in (("true", "#ff2a2a"), ("predicted", "#22e04a")):
            points = example[name]
            axes.plot(points[:, 0], points[:, 1], ".", color=color, markersize=2.6)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.set_title(example["title"], fontsize="small")
        axes.axis("off")
        if example["mesh"] is not None:
            inset = axes.inset_axes((0.68, 0.68, 0.32, 0.32))
            inset.imshow(example["mesh"][..., ::-1])
            inset.axis("off")
    return figure


def nme_curves(curves: Mapping[str, History], stage_starts: Sequence[tuple[float, str]] = ()):
    """Chart of the NME (per cent) over training steps, or None without a finite value.

    curves: {name: [(step, NME), ...]}. stage_starts: [(step, label), ...], drawn as vertical lines.
    """
    arrays = {name: _as_arrays(history) for name, history in curves.items() if len(history)}
    if not any(np.isfinite(values).any() for _, values in arrays.values()):
        return None
    figure, axes = _report_figure("NME, %")
    for index, (name, (steps, values)) in enumerate(arrays.items()):
        dots = {"marker": "o", "markersize": 4} if len(steps) <= 60 else {}
        axes.plot(*_thinned(steps, values), label=name, **dots, **_style(index))
    _finish(axes, *zip(*arrays.values()), stage_starts)
    figure.legend(loc="outside upper left", frameon=False)
    return figure


def cumulative_distribution(errors_of: Mapping[str, np.ndarray]):
    """Chart of the share of images with at most a given NME, or None without a finite error.

    errors_of: {name: [n] per cent, NaN where not measured}. The NME axis ends at 1.6 times the NME that 97 % of the
    images of the best curve reach.
    """
    errors_of = {name: np.asarray(errors, np.float64) for name, errors in errors_of.items()}
    finite = {name: errors[np.isfinite(errors)] for name, errors in errors_of.items()}
    finite = {name: errors for name, errors in finite.items() if len(errors)}
    if not finite:
        return None
    limit = max(1.0, 1.6 * min(np.percentile(errors, 97) for errors in finite.values()))
    figure, axes = _report_figure("images with at most this error, %", "NME, %")
    for index, (name, errors) in enumerate(finite.items()):
        _plot_cumulative(axes, errors_of[name], limit, f"{name} (mean {errors.mean():.2f} %)", index)
    figure.legend(loc="outside upper left", frameon=False)
    return figure


def loss_curve(
    history: History,
    unit: str = "",
    stage_starts: Sequence[tuple[float, str]] = (),
    steps_range: tuple[float, float] | None = None,
):
    """Chart of one loss over training steps, or None without a finite value: recorded values and their running median.

    The loss axis is logarithmic if all values are positive and the largest is more than 25 times the smallest.
    history: [(step, loss), ...]; values that are not finite leave gaps. unit: of the loss. stage_starts: as for
    `nme_curves`. steps_range: ends of the step axis; None for those of the history.
    """
    from matplotlib.ticker import LogLocator

    steps, values = _as_arrays(history)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    figure, axes = _report_figure(unit, size=(4.1, 2.45))
    if finite.min() > 0 and finite.max() > 25 * finite.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if finite.max() > 1e3 * finite.min() else (1, 3)))
        axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.plot(*_thinned(steps, values), color=COLORS[0], linewidth=1, alpha=0.3)
    axes.plot(*_thinned(steps, _running_median(values, max(1, len(values) // 40))), color=COLORS[0])
    _finish(axes, [steps if steps_range is None else steps_range], [values], stage_starts)
    return figure


def _report_figure(y_label: str, x_label: str = "training step", size=(6.1, 3.9)):
    return _new_figure(x_label, y_label, size=size)


def _as_arrays(history: History) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a history, float64; values that are not finite are NaN, which leaves a gap in a line."""
    steps, values = np.array(history, np.float64).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, np.nan)


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_POINTS)).round().astype(int))
    return steps[kept], values[kept]


def _finish(axes, steps, values, stage_starts: Sequence[tuple[float, str]]) -> None:
    """Sets the ranges of both axes from the arrays drawn, and marks the stages that begin within the step axis."""
    from matplotlib.ticker import MaxNLocator

    smallest, largest = np.nanmin(np.concatenate(values)), np.nanmax(np.concatenate(values))
    if axes.get_yscale() == "linear" and 0 <= smallest < 0.4 * largest:
        axes.set_ylim(bottom=0)
    low, high = min(map(min, steps)), max(map(max, steps))
    if low < high:
        axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    for step, label in stage_starts:
        if low < step < high:
            axes.axvline(step, color=_MARK, linewidth=1, linestyle=(0, (2, 3)))
            right = step > (low + high) / 2
            place = {
                "xytext": (-4 if right else 4, 0),
                "ha": "right" if right else "left",
                "va": "top",
                "in_layout": False,
            }
            transform = axes.get_xaxis_transform()
            axes.annotate(label, (step, 1), xycoords=transform, textcoords="offset points", **place)


def _running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Medians of the finite values within `reach` places of each; NaN where a value is NaN."""
    if reach <= 1 or len(values) < 5:
        return values
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    finite = np.isfinite(values)
    smooth = np.full(len(values), np.nan)
    smooth[finite] = np.nanmedian(windows[finite], axis=1)
    return smooth
