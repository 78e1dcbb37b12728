"""Tables, figures and HTML reports of evaluations and training runs.

May import `evaluation`, `training` and `rendering`.
"""
