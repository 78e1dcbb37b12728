"""From a photo or video to faces: detection, the crop, the network's passes, and the output files.

May import every package but `reporting`.
"""
