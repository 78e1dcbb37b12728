"""Errors of reconstructed faces: normalised mean errors, ICP on scans, files of predictions, the test sets' protocols.

May import `training`, `checkpointing`, `rendering` and what they import.
"""
