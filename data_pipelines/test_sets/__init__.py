"""Readers of the test sets AFLW2000-3D, AFLW, AFLW-LFPA and Florence.

May import `sources`.
"""
