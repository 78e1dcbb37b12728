"""CSV tables read by column name, in slices."""

import array
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.sources.base import SourceError
from twodal_jax.io.text import csv_lines

SLICE = 1024  # lines
BROKEN_LINE = "broken line in the table"


def read_header(path: pathlib.Path) -> list[str]:
    """Column names of a CSV. Raises SourceError if the file is missing or empty."""
    if not path.is_file():
        raise SourceError(f"{path}: no such CSV file")
    number, header, problem = next(csv_lines(path), (1, [], ""))
    if problem:
        raise SourceError(f"{path} line {number}: {problem}")
    if not header:
        raise SourceError(f"{path}: is empty; its first line should name the columns")
    return [cell.strip() for cell in header]


def read_columns(
    path: pathlib.Path, text_column: str, number_columns: Sequence[str]
) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """Reads one text column and some numeric columns of a CSV with a header line.

    Returns:
      texts: N strings.
      numbers: float32 [N, len(number_columns)], NaN where a cell is empty.
      problems: {row: problem} of incomplete lines and of text in a numeric column.

    Raises:
      SourceError: columns are missing; the message names them and those that exist.
    """
    texts, table, problems = [], Rows(len(number_columns)), {}
    for new_texts, numbers, new_problems in column_slices(path, text_column, number_columns):
        problems |= {len(texts) + row: problem for row, problem in new_problems.items()}
        texts += new_texts
        table.extend(numbers)
    return texts, table.array(), problems


def column_slices(
    path: pathlib.Path, text_column: str, number_columns: Sequence[str]
) -> Iterator[tuple[list[str], np.ndarray, dict[int, str]]]:
    """Yields the results of `read_columns` for SLICE lines at a time; rows of problems count within the slice."""
    header = read_header(path)
    names = [text_column, *number_columns]
    missing = [name for name in names if name not in header]
    if missing:
        raise SourceError(f"{path}: lacks the columns {_shortened(missing)}; found {_shortened(header)}")
    places = [header.index(name) for name in names]
    lines = itertools.islice(csv_lines(path), 1, None)
    while True:
        texts, numbers, problems = [], array.array("f"), {}
        for line_number, line, broken in itertools.islice(lines, SLICE):
            text, values, problem = _parse(line, places, len(header), text_column)
            if problem := broken or problem:
                problems[len(texts)] = f"{path} line {line_number}: {problem}"
            texts.append(text)
            numbers.extend(values)  # four bytes a number; a list would take 32
        if not texts:
            return
        yield texts, np.frombuffer(numbers, np.float32).reshape(len(texts), -1), problems


class Rows:
    """A float32 array [N, *shape] that grows by rows without a second copy."""

    def __init__(self, *shape: int):
        self._shape, self._bytes = shape, bytearray()

    def extend(self, rows: np.ndarray) -> None:
        """Appends rows [n, *shape]."""
        self._bytes += np.ascontiguousarray(rows, np.float32).data.cast("B") if rows.size else b""

    def array(self) -> np.ndarray:
        """All rows so far, without a copy; `extend` fails while this array exists."""
        return np.frombuffer(self._bytes, np.float32).reshape(-1, *self._shape)


def broken_lines(problems: dict[int, str]) -> dict[int, tuple[str, str]]:
    """The problems of `read_columns` as reasons and details of skipped faces."""
    return {row: (BROKEN_LINE, text) for row, text in problems.items()}


def _parse(line: list[str], places: list[int], width: int, text_column: str) -> tuple[str, list[float], str]:
    """(text, numbers, problem or "") of a line."""
    empty = [np.nan] * (len(places) - 1)
    text = line[places[0]].strip() if places[0] < len(line) else ""
    if len(line) != width:
        return text, empty, f"{len(line)} cells, the header has {width}"
    if not text:
        return text, empty, f"no {text_column}"
    try:
        return text, [float(line[place] or "nan") for place in places[1:]], ""
    except ValueError as error:
        return text, empty, str(error)


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} ... ({len(names)} in all)"
