"""Lines of a CSV table, each read by itself.

A reader of whole files takes a quote that is never closed for the beginning of a cell that goes on to the next
quote: one stray character swallows all rows between. In tables of faces a row is a line, so such a line is broken,
and the lines after it are not.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator


def csv_lines(path: os.PathLike | str) -> Iterator[tuple[int, list[str], str]]:
    """(line number from 1, cells, what is wrong or "") of every line with anything in it.

    UTF-8, with or without a byte order mark; other bytes become replacement characters. A broken line has no cells.

    Raises OSError.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                cells = next(csv.reader([line], strict=True), [])
            except csv.Error as error:
                yield number, [], f"not a line of a CSV ({error})"
                continue
            if any(cell.strip() for cell in cells):
                yield number, cells, ""
