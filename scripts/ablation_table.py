"""Statistics and text of the ablation's table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import scipy.stats

from scripts.ablation_plan import Row, Run
from twodal_jax.evaluation import metrics
from twodal_jax.evaluation.held_out import DETECTED, EMPTY
from twodal_jax.reporting import nme_tables, published_results

LEVEL = 0.95
PROTOCOLS = {DETECTED: "detected landmarks", EMPTY: "image alone"}
REFERENCE = "full"
# (part of the method, the row with it, the row without it), by variants of `configs.variants`.
EFFECTS = (
    ("L_2d-con added to base", "base+reproj", "plain"),
    ("Self-supervision added to base", "ss", "plain"),
    ("The self-critic added to base", "sc", "plain"),
    ("Self-supervision and self-critic added to base", "full", "plain"),
    ("L_2d-con in ss+sc", "full", "no-2d-con"),
    ("L_3d-con in ss+sc", "full", "no-3d-con"),
    ("L_cyc in ss+sc", "full", "no-cyc"),
    ("L_sc in ss+sc", "full", "ss"),
    ("ss+sc instead of the 3DDFA-style baseline", "full", "3ddfa"),
    ("ss+sc instead of the DeFA-style baseline", "full", "defa"),
)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean of `count` values and its confidence interval; low and high are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """The result of a finished run that is not a tuning run.

    Attributes:
      run: the run.
      nme: {protocol: summary} of the 68 landmarks in 2D, per cent, see `metrics.summarize`.
      dense: the same of all vertices in 3D; may be empty.
      step: number of steps trained.
      images_a_step: (annotated, wild).
      learning_rate: the highest of the run.
    """

    run: Run
    nme: Mapping[str, Mapping[str, float | None]]
    dense: Mapping[str, Mapping[str, float | None]]
    step: int
    images_a_step: tuple[int, int]
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Effect:
    """The effect of a part of the method: NME with it minus NME without it, paired by seed."""

    what: str
    protocol: str
    difference: Interval

    @property
    def verdict(self) -> str:
        """Helps, harms, no difference shown (the interval contains 0), or one seed: no interval."""
        if self.difference.low is None:
            return "one seed: no interval"
        if self.difference.high < 0:
            return "helps"
        return "harms" if self.difference.low > 0 else "no difference shown"

    @property
    def sentence(self) -> str:
        """The verdict with the size of the difference and its interval."""
        difference, size = self.difference, f"{abs(self.difference.mean):.3f}"
        shown = f"{self.what}, {PROTOCOLS[self.protocol]}: {self.verdict}"
        if self.verdict in ("helps", "harms"):
            ends = sorted(abs(end) for end in (difference.low, difference.high))
            return f"{shown}, by {size} [{ends[0]:.3f}, {ends[1]:.3f}]."
        return f"{shown} (NME {interval_text(difference, '+')})."


def interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's t interval of the mean of independent values; None without values."""
    count = len(values)
    if not count:
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = float(scipy.stats.t.ppf((1 + level) / 2, count - 1)) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def errors(finished: Sequence[Finished], row: Row, protocol: str) -> dict[int, float]:
    """{seed: mean of the yaw bins in per cent} of a row."""
    found = {}
    for result in finished:
        error = result.nme.get(protocol, {}).get("mean_of_bins")
        if result.run.row == row and error is not None:
            found[result.run.seed] = error
    return found


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """Interval of first - second over the seeds that both have."""
    return interval([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def reference_row(row: Row, rows: Sequence[Row], variant: str) -> Row | None:
    """The row of another variant to compare `row` with: of the same extras and, if there is one, the same weights and
    number of wild images; else the first of these extras.
    """
    candidates = [other for other in rows if other.variant == variant and other.extras == row.extras]

    def agreement(other: Row) -> int:
        return (other.weights == row.weights) + (other.num_wild == row.num_wild)

    return max(candidates, key=agreement, default=None)


def effects(finished: Sequence[Finished]) -> list[Effect]:
    """The effects of the pairs of EFFECTS that have results, and of the extras."""
    rows = list(dict.fromkeys(result.run.row for result in finished))
    pairs = []
    for what, variant, other in EFFECTS:
        for row in rows:
            without = reference_row(row, rows, other)
            if row.variant == variant and without is not None:
                changes = row.title.partition(",")[2]
                where = ("with extras" if row.extras else "without extras") + ("," + changes if changes else "")
                pairs.append((f"{what} ({where})", row, without))
    for row in rows:
        without = dataclasses.replace(row, extras=False)
        if row.extras and without in rows:
            pairs.append((f"The extras in {row.title}", row, without))
    found = []
    for what, row, without in pairs:
        for protocol in PROTOCOLS:
            difference = paired_difference(errors(finished, row, protocol), errors(finished, without, protocol))
            if difference is not None:
                found.append(Effect(what, protocol, difference))
    return found


def interval_text(found: Interval | None, sign: str = "") -> str:
    """Mean and interval, such as "3.514 [3.480, 3.548]", or with `sign` "+0.120 [-0.010, +0.250]"; "-" for None."""
    if found is None:
        return "-"
    mean, low, high = (
        value if value is None else f"{value:{sign}.3f}" for value in (found.mean, found.low, found.high)
    )
    return mean if low is None else f"{mean} [{low}, {high}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column left-aligned and the others right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def row_summaries(finished: Sequence[Finished], reference: str) -> list[dict[str, Any]]:
    """One dict a row: its settings, and for each protocol its NME and its difference to the reference row."""
    rows = list(dict.fromkeys(result.run.row for result in finished))
    summaries = []
    for row in rows:
        results = [result for result in finished if result.run.row == row]
        other = reference_row(row, rows, reference)
        if row.variant == reference:  # rows of other weights or wild images are compared with the first of them
            other = next(one for one in rows if one.variant == reference and one.extras == row.extras)
        by_protocol = {}
        for protocol in PROTOCOLS:
            own = errors(finished, row, protocol)
            compared = other is not None and other != row
            difference = paired_difference(own, errors(finished, other, protocol)) if compared else None
            by_protocol[protocol] = {"nme": interval(list(own.values())), "difference": difference}
        summaries.append(
            {
                "row": row,
                "steps": results[0].step,
                "images_a_step": results[0].images_a_step,
                "learning_rate": results[0].learning_rate,
                "factor": results[0].run.factor,
                "seeds": sorted(result.run.seed for result in results),
                "protocols": by_protocol,
            }
        )
    return summaries


def main_table(summaries: Sequence[Mapping[str, Any]], reference: str) -> str:
    """The table of one value of `extras`; the reference row has "-" for its difference to itself."""
    header = ["row"]
    for title in PROTOCOLS.values():
        header += [f"NME, {title}", f"difference to {reference}"]
    header += ["steps", "images a step", "learning rate", "seeds"]
    rows = []
    for summary in summaries:
        cells = [summary["row"].title]
        for found in summary["protocols"].values():
            cells += [interval_text(found["nme"]), interval_text(found["difference"], "+")]
        annotated, wild = summary["images_a_step"]
        cells += [
            f"{summary['steps']:,}",
            f"{annotated} + {wild}",
            f"{summary['learning_rate']:.3g}",
            ", ".join(map(str, summary["seeds"])),
        ]
        rows.append(cells)
    return markdown_table(header, rows)


def tuning_table(tuned: Sequence[Mapping[str, Any]]) -> str:
    """Validation errors of all tried rates; the chosen one of each row is bold."""
    rows = []
    for found in tuned:
        tried = []
        for trial in found["trials"]:
            text = f"{trial['learning_rate']:.3g}: {trial['validation_error']:.3f}"
            tried.append(f"**{text}**" if trial["factor"] == found["chosen"] else text)
        extras = "on" if found["row"].extras else "off"
        rows.append([found["row"].title, extras, f"{found['steps']:,}", "; ".join(tried)])
    return markdown_table(["row", "extras", "steps", "learning rate: validation NME (%)"], rows)


def published_tables(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paper's Table II where runs differ in the number of wild images, Table III where they differ in the mask."""
    rows, parts = [summary["row"] for summary in summaries], []
    if len({row.num_wild for row in rows if row.variant in (REFERENCE, "3ddfa", "defa")}) > 1:
        numbers = next(iter(published_results.TABLE_2.values()))
        lines = [
            [name, *(f"{value:.2f}" for value in line.values())] for name, line in published_results.TABLE_2.items()
        ]
        parts.append("Published, Table II (NME by number of wild images):")
        parts.append(markdown_table(["method", *(f"{number:,}" for number in numbers)], lines))
    if len({row.weights for row in rows if row.variant == REFERENCE}) > 1:
        lines = [
            [f"Stage {stage + 1}", *(f"{values[stage]:.2f}" for values in published_results.TABLE_3.values())]
            for stage in range(2)
        ]
        parts.append("Published, Table III (NME of 2DAL by weights of the landmarks):")
        parts.append(markdown_table(["weights", *published_results.TABLE_3], lines))
    return parts


def text(
    finished: Sequence[Finished],
    tuned: Sequence[Mapping[str, Any]],
    beside: Mapping[str, Mapping[str, Any]],
    *,
    reference: str,
    reference_name: str,
    planned: int,
    command: str,
    note: str,
) -> str:
    """The text of ablation.md.

    Args:
      finished: the results so far.
      tuned: [{"row", "steps", "chosen", "trials": [{"factor", "learning_rate", "validation_error"}]}].
      beside: {label: summary of the 2D NME} of other methods on the same images.
      reference: variant that differences are taken from.
      reference_name: the same as the user named it.
      planned: number of runs of the whole plan.
      command: the command line.
      note: sentence about the input of the rows.
    """
    parts = [
        "# Ablation",
        f"    {command}",
        f"NME (%) of 68 landmarks in 2D, mean of the yaw bins, on the held-out set: mean over seeds and {LEVEL:.0%}"
        f" interval (Student's t). Differences are paired by seed: row minus {reference_name}, negative where the row"
        f" is better. {note}",
    ]
    if len(finished) < planned:
        parts.append(f"**Not complete: {len(finished)} of {planned} runs are finished.**")
    summaries = row_summaries(finished, reference)
    for extras, title in ((True, "Extras on"), (False, "Extras off")):
        chosen = [summary for summary in summaries if summary["row"].extras == extras]
        if chosen:
            parts += [f"## {title}", main_table(chosen, reference_name)]
    parts += published_tables(summaries)
    if beside:
        parts.append("## Other methods on the same images")
        for label, summary in beside.items():
            bins = " / ".join(nme_tables.cell(name, summary[name]) for name in metrics.YAW_BINS)
            mean = nme_tables.cell("mean_of_bins", summary["mean_of_bins"])
            parts.append(f"{label}: {bins}, mean of bins {mean} ({summary['count']} images).")
    if found := effects(finished):
        parts += [
            "## What the intervals show",
            "A part helps where the whole interval of the difference lies on the side of a lower error. The intervals"
            " are not corrected for the number of comparisons: of 20 parts without any effect, about one would show a"
            " difference.",
            "\n".join(f"- {effect.sentence}" for effect in found),
        ]
    if tuned:
        parts += ["## Learning rates tried on validation faces", tuning_table(tuned)]
    return "\n\n".join(parts) + "\n"
