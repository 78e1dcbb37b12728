"""Tables, charts and HTML pages of evaluations and training runs.

May import `evaluation`, `training` and `rendering`.
"""
