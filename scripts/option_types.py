"""Argparse types of command-line options. Imports only fast modules."""

import argparse
from collections.abc import Callable
from typing import Any


def at_least_one(text: str) -> int:
    """Argparse type of a count; "1e3" is not accepted."""
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return value


def comma_list(parse_one: Callable[[str], Any], expected: str) -> Callable[[str], list]:
    """Argparse type of comma-separated values.

    `parse_one` raises ValueError or KeyError for an invalid value; `expected` describes valid ones in the message.
    """

    def parse(text: str) -> list:
        try:
            return [parse_one(part) for part in text.split(",")]
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"expected {expected} with commas between them, got {text!r}") from None

    return parse
