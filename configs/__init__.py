"""Configs of runs; each docstring holds the command, its duration and the expected result."""
