"""3D morphable models: readers of the field's file formats, and the built-in model.

May import `geometry`, `io` and `rendering`.
"""
