"""Grid of the head: rows from the crown to the neck, columns around it.

Frame of the built-in model: millimetres, origin midway between the ears, x right as seen in the
image of a frontal face, y up (0 at the pupils), z to the viewer. The bare head of this module is an egg with a chin and
a neck; `features` adds the face. Proportions are rounded values of anthropometric tables for adults.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

# One ring of the head per line: height and depth in front, at the side and behind. `bend` is the shape of the ring's
# rise from front to side (0: like cos^2, 1: low until past the mouth), `square` the outward shift between front and
# side, `intervals` the number of rows to the next ring.
_RINGS = np.array(
    [
        # y_f    z_f   x_s   y_s    z_s   y_b   z_b   bend square intervals
        [117.0, -5.0, 6.0, 117.0, -12.0, 117.0, -19.0, 0.0, 0.00, 4],  # crown
        [108.0, 38.0, 42.0, 108.0, -12.0, 104.0, -62.0, 0.0, 0.00, 5],
        [92.0, 68.0, 61.0, 90.0, -12.0, 84.0, -88.0, 0.0, 0.01, 6],
        [72.0, 86.0, 70.0, 68.0, -10.0, 60.0, -99.0, 0.0, 0.02, 10],  # hairline
        [45.0, 95.0, 74.5, 42.0, -8.0, 32.0, -102.0, 0.3, 0.03, 14],  # forehead
        [22.0, 97.0, 75.0, 18.0, -6.0, 6.0, -98.0, 0.6, 0.02, 26],  # brows
        [0.0, 93.5, 74.0, -2.0, -4.0, -18.0, -90.0, 0.8, 0.00, 24],  # eyes
        [-22.0, 91.0, 72.0, -18.0, -2.0, -38.0, -80.0, 1.0, 0.00, 24],  # middle of the nose
        [-44.0, 93.0, 68.5, -34.0, 0.0, -54.0, -70.0, 1.0, 0.00, 24],  # below the nose
        [-66.0, 94.0, 65.0, -48.0, 2.0, -66.0, -64.0, 1.0, 0.00, 17],  # mouth
        [-82.0, 92.5, 61.5, -60.0, 5.0, -76.0, -61.0, 0.7, 0.00, 12],  # below the lips
        [-95.5, 92.0, 58.5, -69.0, 6.0, -84.0, -59.0, 0.4, 0.00, 10],  # chin
        [-106.5, 85.0, 55.0, -77.5, 6.0, -92.0, -58.0, 0.1, 0.00, 7],  # edge of the jaw
        [-110.5, 68.0, 52.0, -88.5, 0.0, -100.0, -58.0, 0.0, 0.00, 6],  # under the chin
        [-115.5, 44.0, 52.0, -104.5, -10.0, -112.0, -58.0, 0.0, 0.00, 5],  # throat
        [-145.0, 37.0, 54.0, -140.0, -14.0, -145.0, -60.0, 0.0, 0.00, 5],
        [-190.0, 40.0, 60.0, -190.0, -15.0, -190.0, -64.0, 0.0, 0.00, 0],  # neck
    ]
)
MOUTH_RING = 9
# Rows of the inside of the mouth; the two outermost rows are the edges of the lips.
POCKET_ROWS = 9
# Degrees from the middle of the face, and the number of columns up to there: fine at the face, medium at the ears,
# coarse at the back of the head.
_COLUMNS = ((0.0, 0), (48.0, 52), (75.0, 11), (112.0, 18), (180.0, 9))


class HeadGrid(NamedTuple):
    """Points of the bare head, as rows x columns; one further point closes the crown.

    Attributes:
      points: float64 [R, C, 3], millimetres. The last column meets the first behind the head;
        column `middle + k` mirrors column `middle - k`.
      ring: [R] position between the rings of the table (9 is the mouth).
      pocket: [R] 1 at the edge of the upper lip to -1 at that of the lower lip inside the mouth;
        2 above, -2 below.
      angle: [C] radians from the middle of the face, positive to +x.
      middle: index of the column in the middle of the face.
    """

    points: np.ndarray
    ring: np.ndarray
    pocket: np.ndarray
    angle: np.ndarray
    middle: int


def _angles() -> np.ndarray:
    parts = [np.linspace(a, b, n, endpoint=False) for (a, _), (b, n) in zip(_COLUMNS[:-1], _COLUMNS[1:])]
    positive = np.radians(np.concatenate([*parts, [180.0]]))
    return np.concatenate([-positive[-2:0:-1], positive])


def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Ring coordinate and pocket coordinate of each row."""
    counts = _RINGS[:-1, -1].astype(int)
    ring = np.concatenate([i + np.arange(n) / n for i, n in enumerate(counts)] + [[len(_RINGS) - 1.0]])
    above, below = ring[ring < MOUTH_RING], ring[ring > MOUTH_RING]
    inside = np.linspace(1, -1, POCKET_ROWS)
    pocket = np.concatenate([np.full(len(above), 2.0), inside, np.full(len(below), -2.0)])
    # The closed mouth is 0.7 mm high.
    ring = np.concatenate([above, MOUTH_RING - 0.016 * inside, below])
    return ring, pocket


def head_grid() -> HeadGrid:
    """Builds the grid of the bare head."""
    angle, (ring, pocket) = _angles(), _rows()
    table = PchipInterpolator(np.arange(len(_RINGS)), _RINGS[:, :9])(ring)
    y_front, z_front, x_side, y_side, z_side, y_back, z_back, bend, square = (column[:, None] for column in table.T)
    sine, cosine = np.sin(angle)[None], np.cos(angle)[None]
    front = cosine > 0
    climb = (1 - bend) * sine**2 + bend * (0.45 * sine**2 + 0.55 * sine**4)
    y = np.where(front, y_front + (y_side - y_front) * climb, y_side + (y_back - y_side) * cosine**2)
    swell = 1 + square * np.sin(2 * angle)[None] ** 2
    x = x_side * sine * swell
    reach = np.where(front, z_front - z_side, z_side - z_back)
    z = z_side + reach * cosine * swell
    points = np.stack([x, y, z], axis=-1)
    return HeadGrid(points, ring, pocket, angle, int(np.argmin(np.abs(angle))))


def triangles(num_rows: int, num_columns: int) -> np.ndarray:
    """Triangles of the closed grid and its crown.

    Vertex r * num_columns + c is the point of row r and column c; the last vertex is the crown.

    Returns:
      int32 [T, 3], counter-clockwise seen from outside. The quads are split towards the middle of
      the face on both sides, so that a mirrored face has mirrored triangles.
    """
    index = np.arange(num_rows * num_columns).reshape(num_rows, num_columns)
    right = np.roll(index, -1, axis=1)
    a, b, c, d = index[:-1], right[:-1], right[1:], index[1:]  # clockwise from the upper left
    one = np.stack([a, d, b], -1), np.stack([b, d, c], -1)
    other = np.stack([a, d, c], -1), np.stack([a, c, b], -1)
    column = np.arange(num_columns)
    left_half = ((column < num_columns // 2 - 1) | (column == num_columns - 1))[None, :, None]
    quads = [np.where(left_half, p, q).reshape(-1, 3) for p, q in zip(one, other)]
    crown = num_rows * num_columns
    fan = np.stack([np.full(num_columns, crown), index[0], right[0]], -1)
    return np.concatenate([*quads, fan]).astype(np.int32)
