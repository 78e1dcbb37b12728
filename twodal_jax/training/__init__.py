"""Parts of a training run: stages, state, batches, augmentation, the step, optimisers and the metric log.

May import `models`, `geometry`, `io`, `losses` and `forward`.
"""
