"""Texts of any origin, such as file names, made fit to be shown: on a terminal, in HTML, Markdown and CSV."""

from __future__ import annotations

import html
import unicodedata

_FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs a cell that begins so
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats (they turn the direction of writing), lone surrogates


def printable(text: object) -> str:
    r"""The text with what acts and is not seen spelt out: a line feed as `\x0a`, U+202E as `\u202e`."""
    return "".join(_spelt(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in str(text))


def as_html(text: object) -> str:
    """Printable text for HTML, in an element or in a quoted attribute."""
    return html.escape(printable(text))


def as_markdown_cell(text: object) -> str:
    """Printable text for a cell of a Markdown table, where nothing in it is markup."""
    shown = printable(text)
    for sign in "\\`*_[]|~":
        shown = shown.replace(sign, "\\" + sign)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_csv_cell(text: object) -> str:
    """Printable text for a cell that a spreadsheet takes as text: `=1+1` as `'=1+1` (OWASP, CSV injection)."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _spelt(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
