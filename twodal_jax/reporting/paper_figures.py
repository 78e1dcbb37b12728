"""The paper's figures, with matplotlib: each as PNG and as SVG.

Colours: Okabe and Ito's, which most colour-blind people can tell apart.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from twodal_jax.evaluation import metrics
from twodal_jax.io.text import escape_hidden

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
SIZE_INCHES = (5.6, 4.0)


def _new(title: str, x_label: str, y_label: str):
    from matplotlib.figure import Figure  # slow to import, and no display is touched this way

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(index: int) -> dict:
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}


def save(figure, path: pathlib.Path) -> list[pathlib.Path]:
    """Writes path.png and path.svg atomically. Names and labels in it are text, whatever they look like."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two $ would be taken for mathematics, mostly broken
        text.set_text("\n".join(map(escape_hidden, text.get_text().split("\n"))))
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, options in ((".png", {"dpi": 150}), (".svg", {"metadata": {"Date": None}})):
        temporary = path.with_name(f".{path.name}.tmp{suffix}")
        figure.savefig(temporary, **options)
        os.replace(temporary, path.with_name(path.name + suffix))
        written.append(path.with_name(path.name + suffix))
    return written


def error_distribution(errors_of: Mapping[str, np.ndarray], title: str):
    """Fig. 6: the number of images against their NME in ascending order, the 20 worst of each method
    dropped; the mean of what is left in the legend.

    errors_of: {method: [n] per cent, NaN where not measured}.
    """
    figure, axes = _new(title, "NME (%)", "number of images")
    for index, (label, errors) in enumerate(errors_of.items()):
        kept = np.sort(errors[np.isfinite(errors)])
        kept = kept[: max(len(kept) - metrics.NUM_WORST_DROPPED, 0)]
        mean = f"{kept.mean():.3f}" if len(kept) else "-"
        axes.plot(kept, np.arange(1, len(kept) + 1), label=f"{label}: {mean} %", **_style(index))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(title=f"mean without {metrics.NUM_WORST_DROPPED} worst", loc="lower right", frameon=False)
    return figure


def cumulative_by_yaw(errors_of: Mapping[str, np.ndarray], yaw_deg: np.ndarray, title: str, limit: float | None = None):
    """Fig. 7b: the share of images with at most a given NME, one panel for each yaw bin and one for all.

    limit: right end of the error axis; default: where the worst method has reached 95 %.
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
        axes.set(title=f"{name} ({int(chosen.sum())} images)", xlabel="NME (%)", xlim=(0, limit), ylim=(0, 100))
        axes.grid(color="0.9")
        for index, (label, errors) in enumerate(errors_of.items()):
            x, share = metrics.cumulative_error(errors[chosen])
            x, share = np.append(0.0, x), np.append(0.0, share)
            x, share = np.append(x, max(limit, x[-1])), np.append(share, share[-1])
            axes.step(x, share, where="post", label=label, **_style(index))
        if place == 0:
            axes.set_ylabel("images (%)")
            axes.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    title: str,
    x_label: str,
    y_label: str,
):
    """Measured values with their spread: {label: (x, mean, spread)}."""
    figure, axes = _new(title, x_label, y_label)
    for index, (label, (x, mean, spread)) in enumerate(series.items()):
        axes.errorbar(x, mean, yerr=spread, label=label, marker="o", capsize=3, **_style(index))
    axes.legend(frameon=False)
    return figure


def overlays(examples: Sequence[Mapping], title: str, columns: int = 4):
    """Fig. 5: predicted landmarks green, true ones red, the dense mesh as a thumbnail.

    examples: from best to worst, each {"title", "image": BGR uint8 [H, W, 3], "predicted", "true":
    [68, 2] pixels of it, "mesh": BGR picture or None}.
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
