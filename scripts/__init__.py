"""Thin command-line programs, one job each: `python -m scripts.<name>`."""
