"""Types of command-line options, for argparse. Imports nothing that takes time."""

import argparse


def at_least_one(text: str) -> int:
    """The type of an option that counts something; "1e3" is no number here."""
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return value
