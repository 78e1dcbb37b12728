"""Drawing meshes on the host: z-buffer rasteriser (NumPy in, NumPy out) and shading."""
