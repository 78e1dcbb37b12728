"""From a source to a prepared data set: work units, Apache Beam, resuming.

May import `sources` and `storage`.
"""
