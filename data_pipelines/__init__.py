"""Data pipelines: face files -> prepared folders -> batches of NumPy arrays.

This is the only package that imports TensorFlow, and only inside the functions that use it. Prepared folders of
format "arrays" are written and read with NumPy alone.
"""
