"""Z-buffer rasteriser on the CPU, compiled by numba.

Notation: vertices [N, 3] are (x, y, z) in pixels, x right, y DOWN, pixel centres at integer
coordinates, LARGER z NEARER to the viewer. Triangles of any orientation are drawn: a face mesh
is open, and what is hidden is decided by depth alone.

A face mesh has about 1e5 triangles whose median covers 0.07 pixel, so those whose box has no pixel
centre are left out first, by the integer bounds of the box alone.
"""

from __future__ import annotations

import concurrent.futures
import os
from typing import NamedTuple

import numpy as np
from numba import njit

_FAR = np.float32(-np.inf)
_INDEX = np.uint32  # of a sign, numba would ask at each look-up whether it counts from the end


class Fragments(NamedTuple):
    """What the z-buffer holds.

    Attributes:
      triangle_index: int32 [H, W], index of the nearest triangle, -1 where there is none.
      barycentric: float32 [H, W, 3], weights of its three corners (sum 1; 0 where empty).
      depth: float32 [H, W], interpolated z, -inf where empty.
    """

    triangle_index: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray


@njit(cache=True, nogil=True)
def _boxes(vertices, triangles, height, width, boxes):
    """Write [t, top, bottom, left, right] of the triangles whose box has a pixel centre; return their number.

    Without a branch, since nothing foretells which they are: each triangle is written, and the next one
    writes over it if it has none. `boxes` has a row more than there are triangles.
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
        # A NaN fails the test; one that slips through makes the area NaN.
        count += np.int64((top <= bottom) & (left <= right))
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(vertices, triangles, triangle_index, barycentric, depth):
    boxes = np.empty((triangles.shape[0] + 1, 5), np.int32)
    for box in boxes[: _boxes(vertices, triangles, depth.shape[0], depth.shape[1], boxes)]:
        t, top, bottom = _INDEX(box[0]), _INDEX(box[1]), _INDEX(box[2])
        left, right = _INDEX(box[3]), _INDEX(box[4])
        i, j, k = _INDEX(triangles[t, 0]), _INDEX(triangles[t, 1]), _INDEX(triangles[t, 2])
        # Relative to corner 0, in double: far-away corners cost no precision near the pixel.
        x0, y0, z0 = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        ax, ay, az = vertices[j, 0] - x0, vertices[j, 1] - y0, vertices[j, 2] - z0
        bx, by, bz = vertices[k, 0] - x0, vertices[k, 1] - y0, vertices[k, 2] - z0
        area = ax * by - ay * bx
        if area == 0.0 or not np.isfinite(area + az + bz):
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
                # One branch, not four: each would be as hard to foretell.
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
        # A triangle without area is skipped, and the others keep their index.
        triangles = np.where(wrong[:, None], 0, triangles).astype(np.int32)
    return vertices, triangles


def _empty(shape: tuple[int, ...]) -> Fragments:
    height, width = shape[-2:]
    if height < 1 or width < 1:
        raise ValueError(f"height, width: expected positive sizes, got {height}, {width}")
    return Fragments(np.full(shape, -1, np.int32), np.zeros((*shape, 3), np.float32), np.full(shape, _FAR, np.float32))


def rasterize(vertices: np.ndarray, triangles: np.ndarray, height: int, width: int) -> Fragments:
    """Find, for every pixel, the nearest triangle over its centre.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer. Rows that are not finite are allowed:
        triangles using them are skipped.
      triangles: [T, 3] 0-based; triangles with an index out of range, or without area, are
        skipped. Of two triangles at exactly the same depth the first is kept.
      height, width: size of the image in pixels.

    Returns:
      Fragments of that size.

    Raises:
      ValueError: if an array has another shape, or the size is not positive.
    """
    vertices, triangles = _checked(vertices, triangles)
    fragments = _empty((height, width))
    _fill(vertices, triangles, *fragments)
    return fragments


def rasterize_batch(
    vertices: np.ndarray, triangles: np.ndarray, height: int, width: int, *, threads: int | None = None
) -> Fragments:
    """`rasterize` for many meshes of the same triangles, on all cores.

    Args:
      vertices: [B, N, 3], each as for `rasterize`. triangles: [T, 3], of all of them.
      height, width: size of every image in pixels.
      threads: how many run at a time; None for one a core that this process may use.

    Returns:
      Fragments with a leading axis: triangle_index [B, H, W], barycentric [B, H, W, 3], depth
      [B, H, W]; `one_of_batch` takes one mesh's out. Equal to those of single calls, whatever the
      number of threads.

    Raises:
      ValueError: as `rasterize`.
    """
    vertices, triangles = _checked(vertices, triangles, "B, ")
    fragments = _empty((len(vertices), height, width))
    threads = max(1, min(threads or _usable_cores(), len(vertices)))

    def fill(start: int) -> None:
        for mesh in range(start, len(vertices), threads):
            _fill(vertices[mesh], triangles, *(array[mesh] for array in fragments))

    if threads < 2:
        fill(0)
        return fragments
    # Threads of Python, because numba's own may not be entered from two threads of a program; the
    # compiled loop lets go of the interpreter.
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(fill, start) for start in range(threads)]:
            done.result()
    return fragments


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_of_batch(fragments: Fragments, index: int) -> Fragments:
    """Fragments [H, W] of mesh `index` in those of `rasterize_batch` (views, nothing is copied)."""
    return Fragments(*(array[index] for array in fragments))


@njit(cache=True, nogil=True)
def _in_front(vertices, depth, tolerance, visible):
    height, width = depth.shape
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            continue
        # On a slope the depth of the nearest pixel centre is off by up to half a pixel of it:
        # the farthest of the four centres around the vertex is the fair comparison. Empty ones
        # say nothing: the far side of an outline must not show through them.
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
    """Tell which vertices are inside the image and not hidden behind the mesh.

    Args:
      vertices, triangles, height, width: as for `rasterize`.
      tolerance: depth in pixels by which a vertex may lie behind the surface.
      fragments: the result of `rasterize` for the same mesh and size, if there is one already.

    Returns:
      bool [N]; False for vertices that are not finite. Within about two pixels of an outline the
      answer may go either way: depth falls too steeply there for pixel centres to decide.
    """
    vertices, triangles = _checked(vertices, triangles)
    if fragments is None:
        fragments = rasterize(vertices, triangles, height, width)
    visible = np.zeros(len(vertices), np.bool_)
    _in_front(vertices, fragments.depth, np.float32(tolerance), visible)
    return visible
