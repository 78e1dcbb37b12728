"""Writers of files for other programs: meshes, tables, and the network as StableHLO or ONNX.

May import `models`, `rendering`, `io` and `geometry`.
"""
