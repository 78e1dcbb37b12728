"""Checkpoints: writing, finding and verifying them, and loading trained networks, the project's own or others'.

May import `training`, `models`, `face_models`, `io` and `distributed`.
"""

# Folders in a run's work directory: its latest checkpoints, and the best one on its validation part.
LATEST, BEST = "checkpoints", "best"
