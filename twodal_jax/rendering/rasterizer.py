"""Z-buffer rasteriser on the CPU, compiled by numba.

Notation: vertices [N, 3] are (x, y, z) in pixels, x right, y DOWN, pixel centres at integer coordinates, LARGER z
NEARER to the viewer. Triangles of both orientations are drawn, because a face mesh is open: depth alone decides
visibility.

A face mesh has about 1e5 triangles with a median area of 0.07 pixel. Therefore a first pass removes triangles whose
bounding box contains no pixel centre.
"""

from __future__ import annotations

import concurrent.futures
import os
from typing import NamedTuple

import numpy as np
from numba import njit

_FAR = np.float32(-np.inf)
_INDEX = np.uint32  # for signed indices numba adds a test for negative ones to each look-up


class Fragments(NamedTuple):
    """Content of the z-buffer.

    Attributes:
      triangle_index: int32 [H, W], index of the nearest triangle, -1 where empty.
      barycentric: float32 [H, W, 3], weights of its three corners (sum 1; 0 where empty).
      depth: float32 [H, W], interpolated z, -inf where empty.
    """

    triangle_index: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray


@njit(cache=True, nogil=True)
def _boxes(vertices, triangles, height, width, boxes):
    """Writes [t, top, bottom, left, right] of triangles whose box contains a pixel centre; returns their number.

    The loop has no branch, because the branch would be unpredictable: each triangle is written, and the next one
    overwrites it if its box contains no pixel centre. `boxes` has one row more than there are triangles.
    """
    zero, last_row, last_column = np.float32(0), np.float32(height - 1), np.float32(width - 1)
    count = 0
    for t in range(triangles.shape[0]):
        i, j, k = _INDEX(triangles[t, 0]), _INDEX(triangles[t, 1]), _INDEX(triangles[t, 2])
        x0, x1, x2 = vertices[i, 0], vertices[j, 0], vertices[k, 0]
        y0, y1, y2 = vertices[i, 1], vertices[j, 1], vertices[k, 1]
        top, bottom = np.ceil(max(min(y0, y1, y2), zero)), min(max(y0, y1, y2), last_row)
        left, right = np.ceil(max(min(x0, x1, x2), zero)), min(max(x0, x1, x2), last_column)
        boxes[count, 0] = t
        boxes[count, 1], boxes[count, 2] = np.int32(top), np.int32(bottom)
        boxes[count, 3], boxes[count, 4] = np.int32(left), np.int32(right)
        # A box with NaN fails the test. If a NaN passes it, the area is NaN.
        count += np.int64((top <= bottom) & (left <= right))
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(vertices, triangles, triangle_index, barycentric, depth, front_only):
    boxes = np.empty((triangles.shape[0] + 1, 5), np.int32)
    for box in boxes[: _boxes(vertices, triangles, depth.shape[0], depth.shape[1], boxes)]:
        t, top, bottom = _INDEX(box[0]), _INDEX(box[1]), _INDEX(box[2])
        left, right = _INDEX(box[3]), _INDEX(box[4])
        i, j, k = _INDEX(triangles[t, 0]), _INDEX(triangles[t, 1]), _INDEX(triangles[t, 2])
        # In float64 relative to corner 0: far corners then do not reduce the precision near the pixel.
        x0, y0, z0 = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        ax, ay, az = vertices[j, 0] - x0, vertices[j, 1] - y0, vertices[j, 2] - z0
        bx, by, bz = vertices[k, 0] - x0, vertices[k, 1] - y0, vertices[k, 2] - z0
        area = ax * by - ay * bx
        if area == 0.0 or (front_only and area > 0.0) or not np.isfinite(area + az + bz):
            continue
        inverse = 1.0 / area
        for row in range(top, bottom + 1):
            py = row - y0
            for column in range(left, right + 1):
                px = column - x0
                w1 = (px * by - py * bx) * inverse
                w2 = (ax * py - ay * px) * inverse
                w0 = 1.0 - w1 - w2
                z = np.float32(z0 + w1 * az + w2 * bz)
                # One unpredictable branch instead of four.
                if (w0 >= 0.0) & (w1 >= 0.0) & (w2 >= 0.0) & (z > depth[row, column]):
                    depth[row, column] = z
                    triangle_index[row, column] = t
                    barycentric[row, column, 0] = w0
                    barycentric[row, column, 1] = w1
                    barycentric[row, column, 2] = w2


def _checked(vertices: np.ndarray, triangles: np.ndarray, lead: str = "") -> tuple[np.ndarray, np.ndarray]:
    vertices = np.ascontiguousarray(vertices, np.float32)
    triangles = np.ascontiguousarray(triangles, np.int32)
    if vertices.ndim != (3 if lead else 2) or vertices.shape[-1] != 3:
        raise ValueError(f"vertices: expected [{lead}N, 3] (x, y, z), got {vertices.shape}")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise ValueError(f"triangles: expected [T, 3] vertex indices, got {triangles.shape}")
    count = vertices.shape[-2]
    if not count:
        triangles = triangles[:0]
    if triangles.size and (triangles.min() < 0 or triangles.max() >= count):
        wrong = ((triangles < 0) | (triangles >= count)).any(axis=1)
        # Made degenerate, so that it is skipped and the others keep their index.
        triangles = np.where(wrong[:, None], 0, triangles).astype(np.int32)
    return vertices, triangles


def _empty(shape: tuple[int, ...]) -> Fragments:
    height, width = shape[-2:]
    if height < 1 or width < 1:
        raise ValueError(f"height, width: expected positive sizes, got {height}, {width}")
    return Fragments(np.full(shape, -1, np.int32), np.zeros((*shape, 3), np.float32), np.full(shape, _FAR, np.float32))


def rasterize(
    vertices: np.ndarray, triangles: np.ndarray, height: int, width: int, *, front_only: bool = False
) -> Fragments:
    """Finds the nearest triangle over the centre of each pixel.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer. Triangles with non-finite vertices are skipped.
      triangles: [T, 3] 0-based. Triangles without area or with an index out of range are skipped. The first of two
        triangles at the same depth is kept.
      height: of the image, pixels.
      width: of the image, pixels.
      front_only: skip triangles that are clockwise as seen, the back of a mesh whose triangles are as in morphable
        models: twice as fast.

    Returns:
      Fragments [H, W].

    Raises:
      ValueError: an array has another shape, or the size is not positive.
    """
    vertices, triangles = _checked(vertices, triangles)
    fragments = _empty((height, width))
    _fill(vertices, triangles, *fragments, front_only)
    return fragments


def rasterize_batch(
    vertices: np.ndarray, triangles: np.ndarray, height: int, width: int, *, threads: int | None = None
) -> Fragments:
    """`rasterize` for many meshes with the same triangles, on all cores.

    Args:
      vertices: [B, N, 3], each as for `rasterize`.
      triangles: [T, 3], of all meshes.
      height: of each image, pixels.
      width: of each image, pixels.
      threads: number of threads; None for one per core that this process may use.

    Returns:
      Fragments with a leading axis: triangle_index [B, H, W], barycentric [B, H, W, 3], depth [B, H, W]. They equal
      those of single calls.

    Raises:
      ValueError: as `rasterize`.
    """
    vertices, triangles = _checked(vertices, triangles, "B, ")
    fragments = _empty((len(vertices), height, width))
    threads = max(1, min(threads or usable_cores(), len(vertices)))

    def fill(start: int) -> None:
        for mesh in range(start, len(vertices), threads):
            _fill(vertices[mesh], triangles, *(array[mesh] for array in fragments), False)

    if threads < 2:
        fill(0)
        return fragments
    # Python threads, because numba's thread pool must not be entered from two threads. The compiled loop releases the
    # global interpreter lock.
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(fill, start) for start in range(threads)]:
            done.result()
    return fragments


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@njit(cache=True, nogil=True)
def _in_front(vertices, depth, tolerance, visible):
    height, width = depth.shape
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            continue
        # On a slope the depth at the nearest pixel centre is off by up to half a pixel's slope. Therefore the vertex is
        # compared with the farthest of the four centres around it. Empty centres are ignored, because otherwise the
        # far side of an outline would be visible through them.
        farthest = np.float32(np.inf)
        for row in range(int(np.floor(y)), int(np.floor(y)) + 2):
            for column in range(int(np.floor(x)), int(np.floor(x)) + 2):
                if 0 <= row < height and 0 <= column < width and depth[row, column] > _FAR:
                    farthest = min(farthest, depth[row, column])
        visible[i] = np.isfinite(z) and (z >= farthest - tolerance or farthest == np.inf)


def visible_vertices(
    vertices: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
    tolerance: float = 1.0,
    fragments: Fragments | None = None,
) -> np.ndarray:
    """Visibility of vertices: inside the image and not hidden by the mesh.

    Args:
      vertices: as for `rasterize`.
      triangles: as for `rasterize`.
      height: as for `rasterize`.
      width: as for `rasterize`.
      tolerance: depth in pixels by which a visible vertex may lie behind the surface.
      fragments: result of `rasterize` for the same mesh and size, or None.

    Returns:
      bool [N]; False for vertices that are not finite. Within about two pixels of an outline the result is not
      reliable: depth falls too steeply there for pixel centres to decide.
    """
    vertices, triangles = _checked(vertices, triangles)
    if fragments is None:
        fragments = rasterize(vertices, triangles, height, width)
    visible = np.zeros(len(vertices), np.bool_)
    _in_front(vertices, fragments.depth, np.float32(tolerance), visible)
    return visible
