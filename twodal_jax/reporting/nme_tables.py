"""Tables of NME by yaw for a terminal and as Markdown; published rows are marked."""

from collections.abc import Mapping, Sequence

import rich.box
import rich.table

from twodal_jax.io.text import as_markdown_cell
from twodal_jax.reporting.published_results import Published

COLUMNS = {
    "0-30": "0-30°",
    "30-60": "30-60°",
    "60-90": "60-90°",
    "mean_of_bins": "mean of bins",
    "mean_of_images": "mean of images",
    "mean_without_20_worst": "without 20 worst",
    "count": "images",
}
PUBLISHED_MARK = "†"

Row = tuple[str, Mapping[str, float | int | None]]


def cell(column: str, value: float | int | None) -> str:
    """Text of a table cell: per cent with three decimals, a count without, "-" for None."""
    if value is None:
        return "-"
    return str(value) if column == "count" else f"{value:.3f}"


def published_rows(published: Sequence[Published]) -> list[Row]:
    """Rows of published results, with a mark behind the method."""
    return [(f"{row.method} {PUBLISHED_MARK}", row.as_row()) for row in published]


def _cells(label: str, row: Mapping, columns: Sequence[str]) -> list[str]:
    values = [(column, row.get(column)) for column in columns]
    if label.endswith(PUBLISHED_MARK):
        return [label, *("-" if value is None else f"{value:.2f}" for _, value in values)]
    return [label, *(cell(column, value) for column, value in values)]


def screen_table(title: str, rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> rich.table.Table:
    """The rows as a `rich` table; published rows are dimmed."""
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE)
    table.add_column("method")
    for column in columns.values():
        table.add_column(column, justify="right")
    for label, row in rows:
        published = label.endswith(PUBLISHED_MARK)
        table.add_row(*_cells(label, row, list(columns)), style="dim" if published else None)
    return table


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(["method", *columns.values()]) + " |", "|---" + "|---:" * len(columns) + "|"]
    for label, row in rows:
        cells = [as_markdown_cell(text) for text in _cells(label, row, list(columns))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
