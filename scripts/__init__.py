"""Command-line programs, one task each: `python -m scripts.<name>`."""
