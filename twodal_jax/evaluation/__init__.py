"""Errors of reconstructed faces: normalised mean errors, ICP on scans, prediction files and the test sets' protocols.

May import `training`, `checkpointing`, `rendering` and what they import.
"""
