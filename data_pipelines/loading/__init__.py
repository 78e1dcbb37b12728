"""From a prepared data set to batches: shuffling, oversampling, the validation part, tf.data.

May import `storage`.
"""
