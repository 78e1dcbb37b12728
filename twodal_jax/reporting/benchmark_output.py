"""Output of an evaluation: metrics.json, tables.md, per_image.csv and figures.

metrics.json: {"benchmark", "command", "images", "methods": {label: {measure: summary}}, "about": {measure: normaliser
and ground truth}, "shown": {label: input of its network besides the crop}, "published": [...], "problems": [...]}. A
summary has the keys of `metrics.summarize`. With a single method its measures are at the top level too.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.console

from twodal_jax.evaluation import metrics, nme_evaluation
from twodal_jax.io.text import as_csv_cell, as_markdown_cell, escape_hidden, write_json, write_text
from twodal_jax.reporting import nme_tables, paper_figures, published_results as published


@dataclasses.dataclass(frozen=True)
class Results:
    """Errors of all methods on one test set.

    Attributes:
      name: of the test set. keys: [n], its images. yaw_deg: [n].
      errors: {method: {measure: [n] per cent, NaN where not measured}}.
      titles: {measure: title in tables}. about: {measure: normaliser and ground truth}.
      published: {measure: published rows of the same table}.
      problems: messages on how files were interpreted and what was skipped.
      shown: {method: input of its network besides the crops}, only for checkpoints.
      extra: further entries of metrics.json.
    """

    name: str
    keys: Sequence[str]
    yaw_deg: np.ndarray
    errors: Mapping[str, Mapping[str, np.ndarray]]
    titles: Mapping[str, str]
    about: Mapping[str, str]
    published: Mapping[str, Sequence[published.Published]]
    problems: Sequence[str]
    shown: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def measures(self) -> list[str]:
        """Measures that at least one method has, in the order of the titles."""
        return [m for m in self.titles if any(m in by_measure for by_measure in self.errors.values())]

    def summaries(self) -> dict[str, dict[str, dict]]:
        """{method: {measure: summary of `metrics.summarize`}}."""
        return {
            label: {m: metrics.summarize(e[m], self.yaw_deg) for m in self.measures() if m in e}
            for label, e in self.errors.items()
        }


def _rows_of(results: Results, measure: str, summaries: Mapping) -> list[nme_tables.Row]:
    """Rows of a table: published ones, then measured ones."""
    measured = [(label, found[measure]) for label, found in summaries.items() if measure in found]
    return nme_tables.published_rows(results.published.get(measure, ())) + measured


def print_tables(results: Results, console: rich.console.Console) -> None:
    """Prints all tables, then the input of the networks, then the notes."""
    summaries = results.summaries()
    for measure in results.measures():
        title = f"{results.name}: NME (%), {results.titles[measure]}; {results.about[measure]}"
        console.print(nme_tables.screen_table(title, _rows_of(results, measure, summaries)))
    if any(results.published.get(measure) for measure in results.measures()):
        console.print(f"{nme_tables.PUBLISHED_MARK} published in {published.SOURCE}", style="dim")
    for label, what in results.shown.items():
        console.print(escape_hidden(f"{label}: {what}"), markup=False, highlight=False, style="dim")
    for problem in results.problems:
        console.print(escape_hidden(f"! {problem}"), markup=False, highlight=False, style="yellow")


def write(results: Results, folder: pathlib.Path, command: str = "") -> None:
    """Writes metrics.json, tables.md, per_image.csv and the figures into `folder`, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries = results.summaries()
    content = {
        "benchmark": results.name,
        "command": command,
        "images": len(results.keys),
        "about": {m: results.about[m] for m in results.measures()},
        "shown": dict(results.shown),
        "methods": summaries,
        "published": [
            dataclasses.asdict(row) | {"source": published.SOURCE}
            for m in results.measures()
            for row in results.published.get(m, ())
        ],
        "problems": list(results.problems),
    } | dict(results.extra)
    if len(summaries) == 1:
        content |= next(iter(summaries.values()))
    write_json(folder / "metrics.json", content)
    write_text(folder / "tables.md", _markdown(results, summaries, command))
    _write_csv(folder / "per_image.csv", results)
    for measure in results.measures():
        errors = {label: e[measure] for label, e in results.errors.items() if measure in e}
        title = f"{results.name}: {results.titles[measure]}"
        paper_figures.save(paper_figures.error_distribution(errors, title), folder / f"error_distribution_{measure}")
        if np.isfinite(results.yaw_deg).any():
            by_yaw = paper_figures.cumulative_by_yaw(errors, results.yaw_deg, title)
            paper_figures.save(by_yaw, folder / f"cumulative_by_yaw_{measure}")


def _markdown(results: Results, summaries: Mapping, command: str) -> str:
    parts = [f"# {results.name}: NME in per cent", *([f"    {escape_hidden(command)}"] if command else [])]
    for measure in results.measures():
        parts.append(f"## {results.titles[measure]}\n\n{results.about[measure]}.")
        parts.append(nme_tables.markdown_table(_rows_of(results, measure, summaries)))
    if results.shown:
        lines = (f"- {as_markdown_cell(f'{label}: {what}')}" for label, what in results.shown.items())
        parts.append("## Input of the networks\n\n" + "\n".join(lines))
    if any(results.published.get(measure) for measure in results.measures()):
        parts.append(f"{nme_tables.PUBLISHED_MARK} published in {published.SOURCE}.")
    if results.problems:
        parts.append("## Notes\n\n" + "\n".join(f"- {as_markdown_cell(problem)}" for problem in results.problems))
    return "\n\n".join(parts) + "\n"


def _write_csv(path: pathlib.Path, results: Results) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    measures = results.measures()
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "name", "yaw_deg", *measures])
        for label, errors in results.errors.items():
            for i, key in enumerate(results.keys):
                values = [errors[m][i] if m in errors else np.nan for m in measures]
                cells = ["" if not np.isfinite(v) else f"{v:.6f}" for v in values]
                writer.writerow([as_csv_cell(label), as_csv_cell(key), f"{results.yaw_deg[i]:.4f}", *cells])
    os.replace(temporary, path)


def about_measures(truth: nme_evaluation.GroundTruth, truth_name: str = "original annotation") -> dict[str, str]:
    """{measure: normaliser and ground truth}, as tables show them."""
    about = {}
    for name in nme_evaluation.TITLES:
        source = "re-annotated landmarks" if name.endswith(nme_evaluation.REANNOTATED) else truth_name
        if name in (*nme_evaluation.DENSE_MEASURES, nme_evaluation.RECONSTRUCTION):
            source = f"meshes of the annotated parameters, {truth.components} components"
        about[name] = f"normaliser: {nme_evaluation.NORMALISERS[name]}; ground truth: {source}"
        if name in published.NOTES:
            about[name] += f"; {published.NOTES[name]}"
    return about
