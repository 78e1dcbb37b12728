"""The 68 landmarks (iBUG order) of the built-in head.

The tables contain the image-left half and the middle of each feature; the other half is its mirror image on the grid.
"""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models.procedural import features
from twodal_jax.face_models.procedural.head_grid import HeadGrid

# Landmark i of a mirrored face is landmark MIRROR_68[i] of the original.
MIRROR_68 = np.array(
    [
        16,
        15,
        14,
        13,
        12,
        11,
        10,
        9,
        8,
        7,
        6,
        5,
        4,
        3,
        2,
        1,
        0,
        26,
        25,
        24,
        23,
        22,
        21,
        20,
        19,
        18,
        17,
        27,
        28,
        29,
        30,
        35,
        34,
        33,
        32,
        31,
        45,
        44,
        43,
        42,
        47,
        46,
        39,
        38,
        37,
        36,
        41,
        40,
        54,
        53,
        52,
        51,
        50,
        49,
        48,
        59,
        58,
        57,
        56,
        55,
        64,
        63,
        62,
        61,
        60,
        67,
        66,
        65,
    ]
)

# Jaw line: ring of the head (see head_grid) and degrees from the middle of the face.
_JAW = {
    0: (6.1, 72.0),
    1: (7.05, 72.0),
    2: (8.05, 72.0),
    3: (9.15, 72.0),
    4: (10.75, 72.0),
    5: (12.0, 57.0),
    6: (12.0, 38.0),
    7: (12.0, 18.5),
    8: (12.0, 0.0),
}
# Position on the bare head, (x, y) millimetres, image-left half and middle.
_FRONT = {
    17: (-53.0, 17.0),
    18: (-44.5, 23.0),
    19: (-34.0, 25.5),
    20: (-23.0, 23.5),
    21: (-12.0, 18.5),
    27: (0.0, 6.0),
    28: (0.0, -8.0),
    29: (0.0, -22.0),
    30: (0.0, -37.5),
    31: (-14.0, -44.5),
    32: (-7.0, -47.5),
    33: (0.0, -49.0),
}
# Lips: x and height above the mouth line.
_LIPS = {
    48: (-24.5, 0.0),
    49: (-15.0, 6.2),
    50: (-5.5, 8.2),
    51: (0.0, 7.4),
    59: (-15.0, -7.6),
    58: (-7.5, -9.6),
    57: (0.0, -10.0),
}
# Edges of the lips: x and the pocket coordinate (0 is the corner, 1 and -1 the two lips).
_INNER = {60: (-21.5, 0.0), 61: (-8.0, 1.0), 62: (0.0, 1.0), 67: (-8.0, -1.0), 66: (0.0, -1.0)}
# Eye at image left: distance outwards from the eye's centre, height in the opening (1, -1: lids).
_EYE = {36: (14.6, 0.0), 37: (5.0, 1.0), 38: (-5.0, 1.0), 39: (-14.6, 0.0), 40: (-5.0, -1.0), 41: (5.0, -1.0)}


def landmark_indices(grid: HeadGrid, plan: features.FacePlan) -> np.ndarray:
    """Vertices of the 68 landmarks, int32 [68]."""
    num_rows, num_columns, _ = grid.points.shape
    columns = np.arange(num_columns)

    def nearest(cost: np.ndarray, allowed: np.ndarray) -> int:
        return int(np.argmin(np.where(allowed, cost, np.inf)))

    front, outside = plan.z > 20, np.abs(plan.pocket) > 1
    left: dict[int, int] = {}
    for i, (ring, degrees) in _JAW.items():
        row = int(np.argmin(np.abs(grid.ring - ring)))
        column = int(np.argmin(np.abs(grid.angle + np.radians(degrees))))
        left[i] = row * num_columns + columns[column]
    for i, (x, y) in _FRONT.items():
        left[i] = nearest((plan.x - x) ** 2 + (plan.y - y) ** 2, front & outside)
    for i, (x, height) in _LIPS.items():
        left[i] = nearest((plan.x - x) ** 2 + (plan.lip_y - height) ** 2, front & outside)
    for i, (x, pocket) in _INNER.items():
        left[i] = nearest((plan.x - x) ** 2 + 100 * (plan.pocket - pocket) ** 2, front)
    t = np.abs(plan.eye_x / features.EYE_HALF_WIDTH)
    for i, (out, lid) in _EYE.items():
        height = features.lid_height(np.array(out), lid)
        cost = (plan.eye_x - out) ** 2 + (plan.eye_y - height) ** 2
        left[i] = nearest(cost, front & (plan.x < 0) & (t < 1.2))
    rows, middle_column = np.divmod(np.arange(num_rows * num_columns), num_columns)
    mirrored = rows * num_columns + (2 * grid.middle - middle_column) % num_columns
    indices = np.full(68, -1, np.int32)
    for i, vertex in left.items():
        indices[i] = vertex
        indices[MIRROR_68[i]] = mirrored[vertex] if MIRROR_68[i] != i else vertex
    return indices
