"""Checkpoints: writing, finding and verifying them, and loading trained networks, the project's own or others'.

May import `training`, `models`, `face_models`, `io` and `distributed`.
"""
