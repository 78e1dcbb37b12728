"""Types of command-line options, for argparse. Imports nothing that takes time."""

import argparse


def at_least_one(text: str) -> int:
    """The type of an option that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
