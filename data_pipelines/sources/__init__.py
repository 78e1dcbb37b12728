"""Readers of data sets: one face at a time as a dict of arrays, or a `Skip` with the reason.

`base` holds what all readers share. May import `storage` and `twodal_jax`.
"""
