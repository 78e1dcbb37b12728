"""From a source to a prepared data set: work units, Beam, resuming.

May import `sources` and `storage`.
"""
