"""Data pipelines: files of faces -> prepared folders -> batches of NumPy arrays.

The only package that imports TensorFlow, and only inside the functions that need it: prepared
folders of format "arrays" are written and read with NumPy alone.
"""
