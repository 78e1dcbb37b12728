"""Pure functions of a face's geometry: coefficients, 3D morphable model, projection, symmetry, landmark heatmap.

`projection` alone converts between frames. The package imports `distributed.platforms` only.
"""
