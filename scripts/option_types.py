"""Types of command-line options, for argparse. Imports nothing that takes time."""

import argparse
from collections.abc import Callable
from typing import Any


def at_least_one(text: str) -> int:
    """The type of an option that counts something; "1e3" is no number here."""
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return value


def comma_list(parse_one: Callable[[str], Any], expected: str) -> Callable[[str], list]:
    """The type of an option that holds values with commas between them.

    parse_one: raises ValueError or KeyError for what it does not accept. expected: for the error message.
    """

    def parse(text: str) -> list:
        try:
            return [parse_one(part) for part in text.split(",")]
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"expected {expected} with commas between them, got {text!r}") from None

    return parse
