"""The pure mathematics of a face: coefficients, the 3D morphable model, projection, symmetry, the landmark heatmap.

`projection` alone converts between frames. Imports `distributed.platforms` only.
"""
