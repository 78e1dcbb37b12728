"""What one training run is made of: stages, state, batches, augmentation, the step, optimisers and the log.

May import `models`, `geometry`, `io`, `losses` and `forward`.
"""
