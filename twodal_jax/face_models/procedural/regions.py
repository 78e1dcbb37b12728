"""Named parts of the face as weights from 0 to 1 on every vertex."""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models.procedural import features
from twodal_jax.face_models.procedural.bumps import both, bump, curve, step
from twodal_jax.face_models.procedural.features import FacePlan

_UPPER_LIP = [(0.0, 7.2), (5.5, 8.3), (15.0, 5.8), (24.5, 0.3)]
_LOWER_LIP = [(0.0, 10.0), (8.0, 9.6), (16.0, 7.2), (24.5, 0.3)]
# Height of the hairline, millimetres, by degrees from the middle of the face.
_HAIRLINE = [
    (0, 71),
    (20, 70),
    (38, 64),
    (50, 48),
    (60, 36),
    (68, 26),
    (75, 8),
    (82, -4),
    (90, 12),
    (102, 18),
    (110, -10),
    (120, -45),
    (140, -78),
    (180, -88),
]


def brow_coordinates(p: FacePlan) -> tuple[np.ndarray, np.ndarray]:
    """Position relative to the middle line of the brows.

    Returns:
      height [N]: millimetres above the line; along [N]: 0 at the inner end, 1 at the outer one
      (outside 0..1 beyond the ends).
    """
    inner, outer = features.BROW_ARC[0][0], features.BROW_ARC[-1][0]
    height = np.where(p.z > 10, p.y - curve(p.side, features.BROW_ARC), 99.0)
    return height, (p.side - inner) / (outer - inner)


def hair_height(p: FacePlan) -> np.ndarray:
    """Height above the hairline, millimetres [N]; negative on the skin."""
    return p.y - curve(np.degrees(np.abs(p.angle)), _HAIRLINE)


def _lips(p: FacePlan) -> dict[str, np.ndarray]:
    front = (p.z > 20) * step(p.side, 25.5, 23.5)
    upper = step(p.lip_y, curve(p.side, _UPPER_LIP) + 0.5, curve(p.side, _UPPER_LIP) - 0.7)
    lower = step(-p.lip_y, curve(p.side, _LOWER_LIP) + 0.7, curve(p.side, _LOWER_LIP) - 0.9)
    inside = np.abs(p.pocket) <= 1
    return {
        "upper_lip": front * upper * (p.pocket >= 1),
        "lower_lip": front * lower * (p.pocket <= -1),
        "mouth_inside": front * inside * step(np.abs(p.pocket), 1.0, 0.7),
        "teeth": front * step(p.pocket, 0.2, 0.45) * step(p.pocket, 0.98, 0.8) * inside * step(p.side, 21.0, 17.0),
        "lip_line": front * np.exp(-0.5 * (p.lip_y / 0.75) ** 2),
    }


def _eyes(p: FacePlan) -> dict[str, np.ndarray]:
    near = (p.z > 20) * (np.abs(p.eye_x) < features.EYE_HALF_WIDTH + 4)
    radius = np.hypot(p.eye_x, p.y - 0.5)
    edge = np.abs(p.eye_y - features.lid_height(p.eye_x, 1.0))
    along = np.abs(p.eye_x) < features.EYE_HALF_WIDTH
    opening = step(np.abs(p.lid), 1.05, 0.93) * near
    crease = np.abs(p.eye_y - features.lid_height(p.eye_x, 1.0) - 4.2)
    return {
        "eye": opening,
        "iris": opening * step(radius, 6.1, 5.3),
        "iris_rim": opening * np.exp(-0.5 * ((radius - 5.5) / 0.6) ** 2),
        "pupil": opening * step(radius, 2.7, 2.0),
        "eye_shadow": opening * step(p.eye_y, 1.5, 6.0),
        "lashes": near * along * np.exp(-0.5 * (edge / 0.85) ** 2),
        "lower_lashes": near * along * np.exp(-0.5 * ((p.eye_y - features.lid_height(p.eye_x, -1.0)) / 0.6) ** 2),
        "lid_crease": near * np.exp(-0.5 * (crease / 0.9) ** 2) * np.exp(-((p.eye_x / 13.0) ** 4)),
        "tear_duct": near * bump(p.eye_x, p.y, -13.6, -0.8, 1.3, 1.1),
        "eye_socket": both(p.x, p.y, 28.0, 5.0, 17.0, 9.0) * (p.z > 10) * (1 - opening),
        "under_eye": both(p.x, p.y, 28.0, -9.5, 13.0, 3.5) * (p.z > 10),
    }


def region_weights(p: FacePlan) -> dict[str, np.ndarray]:
    """Weights of all regions: {name: float32 [N] from 0 to 1}."""
    front = p.front
    neck = step(p.ring, 12.7, 13.6)
    beard_top = curve(p.side, [(0, -72), (24, -66), (40, -62), (58, -38), (66, -20)])
    beard = step(p.y, beard_top + 5, beard_top - 6) * step(p.ring, 14.0, 13.0) * step(p.z, -2, 14)
    moustache = both(p.x, p.lip_y, 11.0, 12.0, 13.0, 3.6, 3.0) * step(p.lip_y, 6.0, 9.0)
    regions = {
        "nostril": both(p.x, p.y, features.NOSTRIL_X, features.NOSTRIL_Y + 0.2, 3.3, 1.9, 3.0),
        "nose_shadow": both(p.x, p.y, 9.0, -47.5, 9.0, 2.6) + 0.8 * both(p.x, p.y, 19.5, -41.0, 2.2, 5.0),
        "nose": bump(p.x, p.y, 0.0, -36.0, 15.0, 10.0),
        "cheeks": both(p.x, p.y, 42.0, -28.0, 15.0, 13.0),
        "fold": np.exp(-0.5 * ((p.side - curve(p.y, [(-36, 20), (-50, 26), (-68, 34)])) / 2.0) ** 2)
        * step(p.y, -70, -58)
        * step(p.y, -34, -44),
        "under_lip": bump(p.x, p.y, 0.0, -81.0, 15.0, 3.5),
        "beard": beard,
        "moustache": moustache,
        "ear": bump(p.y, p.z, -8.0, -12.0, 26.0, 16.0, 4.0) * step(p.side, 55, 66),
        "forehead": bump(p.x, p.y, 0.0, 48.0, 40.0, 18.0),
    }
    regions = {name: weight * front for name, weight in regions.items()}
    regions["ear"] = bump(p.y, p.z, -8.0, -12.0, 26.0, 16.0, 4.0) * step(p.side, 55, 66)
    regions["neck"] = neck
    regions["under_chin"] = step(p.ring, 12.2, 13.2)
    regions.update(_lips(p))
    regions.update(_eyes(p))
    return {name: np.clip(weight, 0, 1).astype(np.float32) for name, weight in regions.items()}
