"""Tables of NME by yaw, for a terminal and as Markdown, with published rows marked as such."""

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
    """A number as tables show it: per cent with three decimals, counts plain, "-" for none."""
    if value is None:
        return "-"
    return str(value) if column == "count" else f"{value:.3f}"


def published_rows(published: Sequence[Published]) -> list[Row]:
    """Rows of published figures, their methods marked."""
    return [(f"{row.method} {PUBLISHED_MARK}", row.as_row()) for row in published]


def _published_cell(column: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cells(label: str, row: Mapping, columns: Sequence[str]) -> list[str]:
    show = _published_cell if label.endswith(PUBLISHED_MARK) else cell
    return [label, *(show(column, row.get(column)) for column in columns)]


def screen_table(title: str, rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> rich.table.Table:
    """The rows as a `rich` table; published ones dimmed."""
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE)
    table.add_column("method")
    for column in columns.values():
        table.add_column(column, justify="right")
    for label, row in rows:
        published = label.endswith(PUBLISHED_MARK)
        table.add_row(*_cells(label, row, list(columns)), style="dim" if published else None)
    return table


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(["method", *columns.values()]) + " |", "|---" + "|---:" * len(columns) + "|"]
    for label, row in rows:
        cells = [as_markdown_cell(text) for text in _cells(label, row, list(columns))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
