"""UV coordinates of the built-in head: its grid of rows and columns, with the seam behind the head, fills the square.

UV as in `rendering.uv`: u right, v up. The grid is fine at the face, so equal steps of rows and columns give the face
three fifths of the width. Ears, lids and the inside of the mouth have their own texels.
"""

from __future__ import annotations

import functools

import numpy as np

from twodal_jax.face_models.procedural import head_grid

_CROWN_ROWS = 3  # height of the fan that closes the crown, in rows


def uv_for(triangles: np.ndarray) -> np.ndarray | None:
    """UV coordinates of `grid_uv` if the triangles [T, 3] are those of the built-in head, otherwise None."""
    own = head_grid.triangles(*head_grid.head_grid().points.shape[:2])
    return grid_uv() if np.array_equal(own, np.asarray(triangles)) else None


@functools.lru_cache(maxsize=1)
def grid_uv() -> np.ndarray:
    """UV coordinates of the built-in head.

    Returns:
      float32 [N, 2], read-only; the middle of the face is at u = 0.5. The column behind the head is at u = 1,
      and the triangles from there to the first column cross the seam (`rendering.uv.split_seam`).
    """
    grid = head_grid.head_grid()
    rows, columns, _ = grid.points.shape
    u = 0.5 + (np.arange(columns) - grid.middle) / columns
    v = 1 - (np.arange(rows) + 0.5 + _CROWN_ROWS) / (rows + _CROWN_ROWS)
    points = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1).reshape(-1, 2)
    uv = np.concatenate([points, [[0.5, 1 - 0.5 / (rows + _CROWN_ROWS)]]]).astype(np.float32)
    uv.flags.writeable = False
    return uv
