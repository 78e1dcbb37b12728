"""Text: atomic writes, CSV lines, and strings from untrusted sources made safe to display."""

from __future__ import annotations

import contextlib
import csv
import html
import json
import os
import pathlib
import unicodedata
from collections.abc import Iterator
from typing import Any

_FORMULA = ("=", "+", "-", "@")  # a spreadsheet evaluates a cell that begins with one of these
# Unicode categories: controls, formats (some change the direction of writing), lone surrogates, separators.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


class WriteError(Exception):
    """A file could not be written; the message names the file, the reason and the remedy."""


@contextlib.contextmanager
def writing(what: pathlib.Path) -> Iterator[None]:
    """Converts an OSError, such as that of a full disk, to a WriteError that names the file, or `what`."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{error.filename or what}: could not be written ({error.strerror or error}). Make room or set the"
            " permissions; the same command continues the run."
        ) from error


def write_text(path: os.PathLike | str, text: str) -> None:
    """Writes a UTF-8 text file atomically: a reader sees the old content or the new.

    The last of several concurrent writers wins. Raises OSError, and then leaves no partial file.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON atomically, indented. Raises OSError."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def csv_lines(path: os.PathLike | str) -> Iterator[tuple[int, list[str], str]]:
    """Lines of a CSV table, each parsed separately: (line number from 1, cells, error or "").

    A parser of whole files takes an unclosed quote for a cell that spans lines, so that one stray character swallows
    all rows up to the next quote. In tables of faces a row is a line: such a line is an error and has no cells, and
    the lines after it are read. Blank lines are skipped. UTF-8 with or without a byte order mark; invalid bytes become
    replacement characters.

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


def escape_hidden(text: object) -> str:
    r"""Escapes control and invisible characters: a line feed as `\x0a`, U+202E as `\u202e`."""
    return "".join(_escape(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in str(text))


def as_html(text: object) -> str:
    """Text for HTML, in an element or a quoted attribute, with hidden characters escaped."""
    return html.escape(escape_hidden(text))


def as_markdown_cell(text: object) -> str:
    """Text for a cell of a Markdown table, with markup and hidden characters escaped."""
    shown = escape_hidden(text)
    for sign in "\\`*_[]|~":
        shown = shown.replace(sign, "\\" + sign)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_csv_cell(text: object) -> str:
    """Text for a CSV cell that a spreadsheet does not evaluate: `=1+1` as `'=1+1` (OWASP, CSV injection)."""
    shown = escape_hidden(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
