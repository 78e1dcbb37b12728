"""Face detectors, boxes from other programs, and the box conventions between them.

May import `geometry` and `io`.
"""
