"""Rendering without a display: rasteriser, shading, textures, overlays, depth and coordinate maps.

May import `geometry` and `io`.
"""
