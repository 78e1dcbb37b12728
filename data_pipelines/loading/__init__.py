"""From a prepared data set to batches: shuffling, oversampling, the validation split, tf.data.

May import `storage`.
"""
