"""Depth and PNCC (projected normalised coordinate code) of a mesh, pixel by pixel.

Frames as in `rasterizer`: vertices in pixels, y DOWN, larger z nearer. Maps are float32; pictures of maps are BGR or
grey, for cv2.imwrite.
"""

from __future__ import annotations

import numpy as np

from twodal_jax.rendering import shading
from twodal_jax.rendering.rasterizer import Fragments


def depth_map(fragments: Fragments) -> np.ndarray:
    """float32 [..., H, W]: z of the nearest surface in pixels, larger is nearer; NaN without a surface."""
    return np.where(fragments.triangle_index >= 0, fragments.depth, np.float32(np.nan))


def normalised_coordinates(mean: np.ndarray) -> np.ndarray:
    """Normalised coordinate code: mean shape [3, N] -> float32 [N, 3], 0 to 1 on each axis.

    (S - min) / (max - min) for each axis: x to the right in the picture of a frontal face, y up, z to the viewer.
    Source: 3DDFA (Zhu et al., CVPR 2016), Eq. (5).

    Raises:
      ValueError: mean is not [3, N], or flat along an axis.
    """
    mean = np.asarray(mean, np.float64)
    if mean.ndim != 2 or len(mean) != 3 or not mean.shape[1]:
        raise ValueError(f"mean: expected the mean shape [3, N], got {mean.shape}")
    low, size = mean.min(axis=1), np.ptp(mean, axis=1)
    if not (size > 0).all():
        raise ValueError(f"mean: expected a shape with three dimensions, got one of size {size.tolist()}")
    return ((mean.T - low) / size).astype(np.float32)


def pncc(codes: np.ndarray, triangles: np.ndarray, fragments: Fragments) -> np.ndarray:
    """Projected normalised coordinate code: the point of the mean shape that each pixel shows.

    Args:
      codes: [N, 3] of `normalised_coordinates`.
      triangles: [T, 3].
      fragments: [H, W].

    Returns:
      float32 [H, W, 3] in 0..1, channels x, y, z of the mean shape; 0 without a face.
    """
    return shading.interpolate(codes, triangles, fragments)


def depth_picture(
    depth: np.ndarray, dtype: type = np.uint8, *, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """Grey picture of a depth map: near is bright, 0 means no face.

    Args:
      depth: [H, W], NaN outside.
      dtype: np.uint8 or np.uint16.
      low: depth of the value 1; None for the smallest of the map. Give both for comparable pictures, as in a video.
      high: depth of the largest value of dtype; None for the largest of the map.

    Returns:
      [H, W]. A value v > 0 has the depth  low + (v - 1) / (largest - 1) (high - low).

    Raises:
      ValueError: dtype is another type.
    """
    if np.dtype(dtype) not in (np.uint8, np.uint16):
        raise ValueError(f"dtype: expected np.uint8 or np.uint16, got {np.dtype(dtype)}")
    inside, largest = np.isfinite(depth), np.iinfo(dtype).max
    if not inside.any():
        return np.zeros(depth.shape, dtype)
    low = float(depth[inside].min()) if low is None else low
    high = float(depth[inside].max()) if high is None else high
    share = np.clip((np.where(inside, depth, low).astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)
    return np.where(inside, 1 + np.rint(share * (largest - 1)), 0).astype(dtype)


def pncc_picture(codes: np.ndarray) -> np.ndarray:
    """BGR uint8 picture of PNCC [H, W, 3]: red x, green y, blue z; black outside. (3DDFA_V2: x blue, z red.)"""
    return _bgr(codes)


def _bgr(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)[..., ::-1])
