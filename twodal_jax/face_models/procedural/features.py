"""Neutral face on the bare head: eyes, brows, nose, lips, chin, cheeks, ears.

All features are functions of x and y of the bare head (millimetres, y up), so that `regions` and `landmarks` can use
the same positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twodal_jax.face_models.procedural import head_grid as grids
from twodal_jax.face_models.procedural.bumps import both, bump, curve, smooth_max, step

EYE_X, EYE_Y = 31.5, 0.0  # centre of the opening
EYE_HALF_WIDTH = 14.8
EYEBALL_RADIUS, EYEBALL_Z = 12.6, 69.5
UPPER_LID, LOWER_LID = 6.0, 4.6  # heights of the opening above and below its axis
EYE_TILT = 0.05  # rise of the outer corner per millimetre
MOUTH_HALF_WIDTH = 24.5
NOSTRIL_X, NOSTRIL_Y = 6.8, -45.3
BROW_ARC = [(12.0, 17.5), (20.0, 20.5), (34.0, 24.0), (44.0, 22.0), (53.0, 16.0)]


class FacePlan(NamedTuple):
    """Position of each vertex on the head, for functions that place features.

    Attributes (float64, [N] unless said; the crown vertex is last):
      x, y, z: the bare head's position, millimetres.
      side: |x|.
      front: 1 on the front of the head, 0 behind the ears.
      lip_y: height above the mouth line of the vertex' column.
      pocket: see HeadGrid, 2 or -2 outside the mouth.
      ring: see HeadGrid.
      angle: radians from the middle of the face.
      lid: height within the eye opening: 1 at the upper lid's edge, -1 at the lower's, larger
        beyond; 9 far from the eyes.
      eye_x, eye_y: place in the opening, millimetres from its centre, x outwards, y along its axis.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    side: np.ndarray
    front: np.ndarray
    lip_y: np.ndarray
    pocket: np.ndarray
    ring: np.ndarray
    angle: np.ndarray
    lid: np.ndarray
    eye_x: np.ndarray
    eye_y: np.ndarray


def lid_height(eye_x: np.ndarray, lid: float) -> np.ndarray:
    """Height of the edge of a lid above the axis of the eye, millimetres.

    Args:
      eye_x: distance outwards from the centre of the eye.
      lid: 1 upper, -1 lower, 0 the axis.
    """
    t = np.clip(np.abs(eye_x / EYE_HALF_WIDTH), 0, 0.999)
    upper = UPPER_LID * (1 - t**2.2) * (1 - 0.012 * eye_x)
    lower = -LOWER_LID * (1 - t**2.4) * (1 + 0.012 * eye_x)
    return upper * max(lid, 0.0) + lower * max(-lid, 0.0)


def face_plan(grid: grids.HeadGrid) -> FacePlan:
    """Computes the plan of the face from the grid of the bare head."""
    rows, columns, _ = grid.points.shape

    def flat(values: np.ndarray, crown: float) -> np.ndarray:
        return np.append(np.broadcast_to(values, (rows, columns)).ravel(), crown)

    crown = np.array([0.0, grid.points[0, 0, 1] + 0.6, grid.points[0, :, 2].mean()])
    x, y, z = (flat(grid.points[..., i], crown[i]) for i in range(3))
    mouth_row = int(np.argmin(np.abs(grid.pocket)))
    lip_y = y - flat(grid.points[mouth_row, :, 1][None], 0.0)
    side = np.abs(x)
    eye_x = side - EYE_X
    eye_y = y - EYE_Y - EYE_TILT * eye_x
    lid = np.where(eye_y > 0, eye_y / lid_height(eye_x, 1.0), -eye_y / lid_height(eye_x, -1.0))
    lid = np.where((np.abs(eye_x) < EYE_HALF_WIDTH) & (z > 0), np.clip(lid, -9, 9), 9.0)
    return FacePlan(
        x=x,
        y=y,
        z=z,
        side=side,
        front=step(z, -5.0, 18.0),
        lip_y=lip_y,
        pocket=flat(grid.pocket[:, None], 2.0),
        ring=flat(grid.ring[:, None], 0.0),
        angle=flat(grid.angle[None], np.pi),
        lid=lid,
        eye_x=eye_x,
        eye_y=eye_y,
    )


def nose_relief(p: FacePlan) -> np.ndarray:
    """Height of the nose above the bare head, millimetres [N]."""
    ridge = curve(
        p.y,
        [
            (28, 0),
            (18, 0.2),
            (8, 0.8),
            (2, 2.6),
            (-6, 6.3),
            (-16, 11.3),
            (-25, 16.4),
            (-31.5, 20.0),
            (-36, 21.5),
            (-40, 20.0),
            (-43.3, 15.5),
            (-46.5, 9.5),
            (-50, 4.5),
            (-54, 1.5),
            (-58, 0),
        ],
    )
    width = curve(p.y, [(20, 9), (4, 6.2), (-8, 6.6), (-22, 8), (-36, 10.5), (-46, 10), (-58, 6)])
    profile = np.exp(-0.5 * (p.side / width) ** 2.4)
    flank = np.exp(-0.5 * (p.side / (width + 9)) ** 2)
    nose = ridge * (0.80 * profile + 0.20 * flank)
    wings = 9.5 * both(p.x, p.y, 13.2, -40.0, 5.6, 5.6, 3.0)
    crease = -2.2 * both(p.x, p.y, 20.0, -40.5, 2.4, 6.0)
    crease = crease - 1.6 * both(p.x, p.y, 9.5, -35.0, 2.0, 4.0)
    nostrils = -6.5 * both(p.x, p.y, NOSTRIL_X, NOSTRIL_Y, 3.2, 2.1)
    return nose + wings + crease + nostrils


def _mouth(p: FacePlan) -> np.ndarray:
    t = np.clip(p.side / (MOUTH_HALF_WIDTH + 2.0), 0, 1)
    across = (1 - t**2.2) ** 0.9
    upper = 4.6 * np.exp(-0.5 * ((p.lip_y - 3.6) / 2.7) ** 2)
    lower = 5.6 * np.exp(-0.5 * ((p.lip_y + 4.6) / 3.2) ** 2)
    groove = -3.0 * np.exp(-0.5 * (p.lip_y / 1.2) ** 2)
    lips = (upper + lower + groove) * across
    mound = 4.0 * both(p.x, p.y, 0.0, -60.0, 22.0, 12.0)
    corners = -1.8 * both(p.x, p.lip_y, 26.0, -0.5, 3.2, 3.0)
    philtrum = 0.5 * both(p.x, p.y, 4.6, -53.5, 2.0, 4.0) - 0.7 * bump(p.x, p.y, 0, -53.5, 2.4, 4.0)
    under = -5.2 * bump(p.x, p.y, 0.0, -82.5, 18.0, 5.0)
    depth = 13.0 * np.clip(1 - (p.side / (MOUTH_HALF_WIDTH - 0.5)) ** 4, 0, 1)
    pocket = np.where(np.abs(p.pocket) <= 1, -depth * (1 - p.pocket**4), 0.0)
    return lips + mound + corners + philtrum + under + pocket


def _flesh(p: FacePlan) -> np.ndarray:
    chin = 4.2 * bump(p.x, p.y, 0.0, -95.5, 13.0, 10.0, 2.6)
    brow_bone = 2.6 * both(p.x, p.y, 27.0, 19.0, 17.0, 6.0)
    glabella = 1.0 * bump(p.x, p.y, 0.0, 20.0, 9.0, 7.0)
    cheekbone = 3.6 * both(p.x, p.y, 47.0, -20.0, 14.0, 12.0)
    cheek = 2.4 * both(p.x, p.y, 34.0, -44.0, 13.0, 14.0)
    fold_x = curve(p.y, [(-36, 20), (-50, 26), (-66, 33), (-76, 35)])
    along = step(p.y, -74, -60) * step(p.y, -34, -44)
    fold = -1.0 * np.exp(-0.5 * ((p.side - fold_x) / 2.4) ** 2) * along
    hollow = -2.0 * both(p.x, p.y, 46.0, -66.0, 10.0, 12.0)
    return chin + brow_bone + glabella + cheekbone + cheek + fold + hollow


def _eyes(p: FacePlan, z: np.ndarray) -> np.ndarray:
    """Depth [N] of skin at depth z [N] with eye sockets, eyeballs and lids."""
    z = z - 8.0 * both(p.x, p.y, 19.0, 1.5, 7.5, 8.0) - 6.5 * both(p.x, p.y, 32.0, 3.5, 15.0, 9.5)
    z = z - 2.0 * both(p.x, p.y, 33.0, -11.0, 13.0, 4.0)
    distance = p.eye_x**2 + (p.y - EYE_Y) ** 2
    # Beyond its equator the ball continues as a steep slope, so that depth stays a function of x and y.
    gap = EYEBALL_RADIUS**2 - distance
    ball = EYEBALL_Z + np.sign(gap) * np.sqrt(np.abs(gap)) * np.where(gap > 0, 1.0, 3.0)
    skin = smooth_max(z, ball + 1.0, 1.1)
    inside = step(np.abs(p.lid), 1.06, 0.94)
    rim = 0.9 * np.exp(-0.5 * ((p.eye_y - 1.25 * UPPER_LID) / 1.3) ** 2)
    above = p.eye_y - np.where(p.lid < 9, UPPER_LID * (1 - (p.eye_x / EYE_HALF_WIDTH) ** 2), 0)
    crease = -1.5 * np.exp(-0.5 * ((above - 4.4) / 1.1) ** 2) * np.exp(-0.5 * (p.eye_x / 11.0) ** 4)
    near = np.exp(-0.5 * (p.eye_x / 10.5) ** 4) * (z > 20)
    skin = skin + (rim * near + crease * (z > 20))
    lens = 0.7 * bump(p.eye_x, p.y, 0.0, 0.4, 4.0, 4.0, 4.0)
    seen = smooth_max(z - 2.0, ball, 0.6) + lens
    return skin + (seen - skin) * inside


def _ears(p: FacePlan) -> tuple[np.ndarray, np.ndarray]:
    """Outward and backward displacement of the ears."""
    v, u = p.y + 8.0, p.z + 12.0  # up and forward from the ear's centre
    shell = step(np.hypot(u / 17.0, (v - 0.12 * u) / (29.0 + 0.12 * v)), 1.12, 0.74)
    behind = step(u, 16.0, -12.0)
    flare = shell * (1.5 + 15.0 * behind)
    concha = -7.0 * np.exp(-0.5 * (np.hypot((u - 2.0) / 6.0, (v + 2.0) / 9.0)) ** 3)
    scapha = -2.5 * np.exp(-0.5 * (np.hypot((u + 3.0) / 5.0, (v - 13.0) / 7.0)) ** 2)
    return flare + (concha + scapha) * shell, -6.0 * shell * behind


def neutral_vertices(p: FacePlan) -> np.ndarray:
    """Vertices of the neutral, average head: float64 [N, 3], millimetres, model frame."""
    face = step(p.z, 0.0, 30.0)
    z = p.z + face * (nose_relief(p) + _mouth(p) + _flesh(p))
    z = z + face * (_eyes(p, z) - z)
    temple = -2.6 * both(p.z, p.y, 38.0, 26.0, 20.0, 16.0) * (p.side > 30)
    outward, backward = _ears(p)
    side = step(p.side, 55.0, 66.0)
    x = p.x + np.sign(p.x) * (temple + side * outward)
    return np.stack([x, p.y, z + side * backward], axis=-1)
