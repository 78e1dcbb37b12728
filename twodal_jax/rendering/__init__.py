"""Drawing without a display: the rasteriser, shading, textures, overlays and maps.

May import `geometry` and `io`.
"""
