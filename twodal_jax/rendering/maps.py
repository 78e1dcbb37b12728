"""What a face looks like to a program: depth, normals and PNCC of a mesh, pixel by pixel.

Frames as in `rasterizer`: vertices in pixels, y DOWN, larger z nearer. Normals are told in the viewer's
frame with y UP: x to the right of the picture, z towards the viewer. A map is float32 and exact; a picture
made of it is BGR or grey, as cv2.imwrite wants it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twodal_jax.rendering import rasterizer, shading
from twodal_jax.rendering.rasterizer import Fragments


class Maps(NamedTuple):
    """The maps of one mesh in one picture.

    Attributes:
      mask: bool [H, W], True where the mesh is seen.
      depth: float32 [H, W], z in pixels, larger is nearer; NaN outside the mesh.
      normals: float32 [H, W, 3], unit vectors, viewer's frame; 0 outside.
      pncc: float32 [H, W, 3], see `pncc`; None where no mean shape was given.
    """

    mask: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    pncc: np.ndarray | None


def render_maps(
    vertices: np.ndarray, triangles: np.ndarray, height: int, width: int, mean: np.ndarray | None = None
) -> Maps:
    """All maps of a mesh from one rasterisation.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP (as morphable models come).
      height, width: size in pixels. mean: [3, N], the morphable model's mean shape, for PNCC.

    Raises:
      ValueError: arrays of other shapes, or a size that is not positive.
    """
    fragments = rasterizer.rasterize(vertices, triangles, height, width)
    codes = None if mean is None else normalised_coordinates(mean)
    return Maps(
        fragments.triangle_index >= 0,
        depth_map(fragments),
        normal_map(vertices, triangles, fragments),
        None if codes is None else pncc(codes, triangles, fragments),
    )


def depth_map(fragments: Fragments) -> np.ndarray:
    """float32 [..., H, W]: z of the nearest surface in pixels, larger is nearer; NaN where there is none."""
    return np.where(fragments.triangle_index >= 0, fragments.depth, np.float32(np.nan))


def normal_map(vertices: np.ndarray, triangles: np.ndarray, fragments: Fragments) -> np.ndarray:
    """Smooth normals of the surface at each pixel.

    Args: as `render_maps`; fragments of that mesh, [H, W].

    Returns:
      float32 [H, W, 3], unit, outwards (x right, y UP, z to the viewer); 0 where there is no surface. A
      pixel that sees the inside of an open mesh has a normal with negative z.
    """
    upward = np.asarray(vertices, np.float32) * np.array([1, -1, 1], np.float32)
    return _unit(shading.interpolate(shading.vertex_normals(upward, triangles), triangles, fragments))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    return vectors / np.where(length > 0, length, 1)


def normalised_coordinates(mean: np.ndarray) -> np.ndarray:
    """Normalised coordinate code of the mean shape: [3, N] -> float32 [N, 3], 0 to 1 on each axis.

    (S - min) / (max - min), axis by axis: x to the right of a frontal face's picture, y up, z to the viewer.
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
    """Projected Normalised Coordinate Code: which point of the mean shape a pixel shows.

    Args:
      codes: [N, 3] of `normalised_coordinates`. triangles: [T, 3]. fragments: [H, W].

    Returns:
      float32 [H, W, 3] in 0..1, channels x, y, z of the mean shape; 0 where there is no face.
    """
    return shading.interpolate(codes, triangles, fragments)


def depth_picture(
    depth: np.ndarray, dtype: type = np.uint8, *, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """A depth map as a grey picture: near is bright, 0 is no face.

    Args:
      depth: [H, W], NaN outside. dtype: np.uint8 or np.uint16.
      low, high: depths shown as 1 and as the type's largest value; None for the map's own. Give both for
        pictures that are compared, such as the frames of a video.

    Returns:
      [H, W]. A value v > 0 stands for the depth  low + (v - 1) / (largest - 1) (high - low).

    Raises:
      ValueError: another type.
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


def normal_picture(normals: np.ndarray) -> np.ndarray:
    """Normals [H, W, 3] as BGR uint8: red x, green y (up), blue z, from -1 (0) to 1 (255); black outside."""
    inside = (np.asarray(normals) != 0).any(axis=-1, keepdims=True)
    return _bgr(np.where(inside, 0.5 + 0.5 * np.asarray(normals), 0.0))


def pncc_picture(codes: np.ndarray) -> np.ndarray:
    """PNCC [H, W, 3] as BGR uint8: red x, green y, blue z; black outside.

    (3DDFA_V2 writes its pictures with x in blue and z in red.)
    """
    return _bgr(codes)


def _bgr(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)[..., ::-1])
