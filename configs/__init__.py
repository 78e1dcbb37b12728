"""Configs of whole runs; each docstring holds the command, the time it takes and what to expect."""
