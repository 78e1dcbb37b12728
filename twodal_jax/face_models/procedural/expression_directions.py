"""Expressions: ten displacement fields in millimetres, each a full expression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from twodal_jax.face_models.procedural import features
from twodal_jax.face_models.procedural.bumps import both, bump, step
from twodal_jax.face_models.procedural.features import FacePlan

_JAW_HINGE_Y, _JAW_HINGE_Z = -12.0, -4.0
_JAW_ANGLE = np.radians(15.0)
_JAW_GLIDE = 9.0  # forward shift of an open jaw, millimetres


def _field(n: int, x=0.0, y=0.0, z=0.0) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(v, float), (n,)) for v in (x, y, z)])


def _jaw_weight(p: FacePlan) -> np.ndarray:
    """Weight, 0 to 1, of skin that follows the lower jaw; it jumps from lip to lip inside the mouth."""
    beside = step(p.y, -46.0, -92.0)
    apart = np.clip(0.5 - 0.5 * p.pocket, 0.0, 1.0)
    lips = step(p.side, features.MOUTH_HALF_WIDTH + 0.5, 8.0) ** 0.7
    weight = lips * apart + (1 - lips) * beside
    # Skin under the chin stretches down to the throat; skin behind the jaw does not move.
    return weight * step(p.ring, 15.6, 12.4) * step(p.z, -8.0, 30.0)


def _mouth_open(p: FacePlan, v: np.ndarray) -> np.ndarray:
    weight = _jaw_weight(p)
    y, z = v[:, 1] - _JAW_HINGE_Y, v[:, 2] - _JAW_HINGE_Z
    cosine, sine = np.cos(_JAW_ANGLE), np.sin(_JAW_ANGLE)
    down = cosine * y - sine * z - y
    back = sine * y + cosine * z - z + _JAW_GLIDE
    lip = 1.5 * bump(p.x, p.lip_y, 0, 4.0, 14.0, 5.0) * (p.pocket >= 0)
    narrow = -1.8 * np.sign(v[:, 0]) * both(p.x, p.y, 25.0, -66.0, 9.0, 9.0)
    return _field(len(v), narrow, weight * down + lip, weight * back)


def _smile(p: FacePlan, v: np.ndarray) -> np.ndarray:
    corner = both(p.x, p.lip_y, 26.0, 0.0, 13.0, 12.0)
    cheek = both(p.x, p.y, 40.0, -32.0, 15.0, 13.0)
    lids = both(p.x, p.y, 33.0, -8.0, 14.0, 4.5)
    middle = bump(p.x, p.lip_y, 0.0, 0.0, 13.0, 9.0)
    x = np.sign(v[:, 0]) * (7.0 * corner + 1.0 * cheek) * step(p.side, 0.0, 14.0)
    return _field(len(v), x, 6.0 * corner + 3.0 * cheek + 1.6 * lids, -4.0 * corner + 3.0 * cheek - 1.8 * middle)


def _sad(p: FacePlan, v: np.ndarray) -> np.ndarray:
    corner = both(p.x, p.lip_y, 25.0, -2.0, 11.0, 10.0)
    chin = bump(p.x, p.y, 0.0, -92.0, 15.0, 11.0)
    brows = both(p.x, p.y, 12.0, 20.0, 9.0, 9.0)
    return _field(
        len(v), 1.5 * np.sign(v[:, 0]) * corner, -6.5 * corner + 3.0 * chin + 3.5 * brows, 1.0 * corner + 2.0 * chin
    )


def _pucker(p: FacePlan, v: np.ndarray) -> np.ndarray:
    lips = bump(p.x, p.lip_y, 0.0, -1.0, 16.0, 11.0, 2.6)
    pull = bump(p.x, p.lip_y, 0.0, -1.0, 30.0, 14.0, 3.0)
    return _field(len(v), -0.34 * v[:, 0] * pull, -0.08 * p.lip_y * pull, 8.0 * lips)


def _brows_up(p: FacePlan, v: np.ndarray) -> np.ndarray:
    brows = both(p.x, p.y, 32.0, 24.0, 21.0, 11.0, 2.4)
    return _field(len(v), 0.0, 7.0 * brows + 1.4 * both(p.x, p.y, 31.5, 8.0, 14.0, 4.0), -0.8 * brows)


def _brows_down(p: FacePlan, v: np.ndarray) -> np.ndarray:
    inner = both(p.x, p.y, 15.0, 20.0, 12.0, 9.0)
    middle = bump(p.x, p.y, 0.0, 18.0, 9.0, 9.0)
    x = -3.5 * np.sign(v[:, 0]) * inner * step(p.side, 0.0, 9.0)
    return _field(len(v), x, -6.0 * inner, 1.8 * inner + 1.2 * middle)


def _eyes_closed(p: FacePlan, v: np.ndarray) -> np.ndarray:
    upper, lower = features.lid_height(p.eye_x, 1.0), features.lid_height(p.eye_x, -1.0)
    across = (np.abs(p.eye_x) < features.EYE_HALF_WIDTH) & (p.z > 20)
    drop = np.where(across, lower + 0.5 - upper, 0.0)
    inside = np.where(across, np.clip((p.eye_y - lower) / np.maximum(upper - lower, 0.3), 0, 1), 0)
    stretch = np.where(p.eye_y > upper, step(p.eye_y, 17.0, upper), inside)
    y = drop * stretch
    gap = features.EYEBALL_RADIUS**2 - p.eye_x**2 - (v[:, 1] + y) ** 2
    ball = features.EYEBALL_Z + 1.2 + np.sqrt(np.clip(gap, 0.0, None))
    lid = step(p.eye_y, 13.0, 6.0) * across * (gap > 0) * stretch
    return _field(len(v), 0.0, y, np.maximum(ball - v[:, 2], 0.0) * lid)


def _mouth_sideways(p: FacePlan, v: np.ndarray) -> np.ndarray:
    lips = bump(p.x, p.lip_y, 0.0, -4.0, 28.0, 18.0, 2.6)
    return _field(len(v), 6.5 * lips, 0.0, -0.06 * v[:, 0] * lips)


def _cheek_puff(p: FacePlan, v: np.ndarray) -> np.ndarray:
    cheeks = both(p.x, p.y, 44.0, -58.0, 15.0, 16.0, 2.4)
    return _field(len(v), 6.0 * np.sign(v[:, 0]) * cheeks, 0.0, 7.0 * cheeks)


def _sneer(p: FacePlan, v: np.ndarray) -> np.ndarray:
    wings = both(p.x, p.y, 14.0, -40.0, 8.0, 8.0)
    lip = both(p.x, p.lip_y, 12.0, 6.0, 9.0, 6.0) * (p.pocket >= 0)
    return _field(
        len(v), 1.2 * np.sign(v[:, 0]) * wings * step(p.side, 2.0, 10.0), 4.0 * wings + 4.5 * lip, 1.5 * wings
    )


EXPRESSIONS: dict[str, Callable[[FacePlan, np.ndarray], np.ndarray]] = {
    "mouth_open": _mouth_open,
    "smile": _smile,
    "cheek_puff": _cheek_puff,
    "mouth_sideways": _mouth_sideways,
    "pucker": _pucker,
    "brows_up": _brows_up,
    "sad": _sad,
    "eyes_closed": _eyes_closed,
    "brows_down": _brows_down,
    "sneer": _sneer,
}
EXPRESSION_NAMES: tuple[str, ...] = tuple(EXPRESSIONS)


def expression_fields(plan: FacePlan, neutral: np.ndarray) -> np.ndarray:
    """Displacement fields in the order of EXPRESSION_NAMES: float64 [10, 3, N], millimetres."""
    return np.stack([make(plan, neutral) * plan.front for make in EXPRESSIONS.values()])
